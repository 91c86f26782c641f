"""Changes of low rank.

``<part>.<module>.lora_A.weight`` [r, in(, k, k)] and ``.lora_B.weight`` [out, r(, 1, 1)], where a part is ``unet`` or a
text encoder, and modules have diffusers' names, without ``text_model.``. LoHa, LoKr and DoRA have factors with
LyCORIS' names (`etude.diffusion.factors` says how they change a weight).
"""

METHOD = "lora"  # its `apply` uses the content of such a file
