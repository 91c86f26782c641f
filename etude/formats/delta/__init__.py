"""Weights of single layers, and words.

``unet.<parameter>`` is a weight as a whole, ``unet.<parameter>.delta`` its difference from the base's, and
``words.<i>.<part>`` [1, d] the rows of the i-th word of the fact ``words`` (`etude.formats.deltas`).
"""

METHOD = "custom_diffusion"  # its `apply` uses the content of such a file
