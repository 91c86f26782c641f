"""What SDXL's UNet is told of a picture's size: that of the original and where it was cut, or that of the prepared one.

Podell et al., 2023 (arXiv:2307.01952, 2.2) train with the first, and so do diffusers' and kohya's scripts.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from etude.core.params import Schema

SIZES = "sizes"  # the tensor of a picture's latents, where the base is of a family that is told sizes


class TellsSizes(Schema):
    """A method whose pictures' original sizes the UNet can be told."""

    added_keys: ClassVar = {"original_sizes": False}

    original_sizes: bool = Field(
        description="SDXL is told each picture's original size and where it was cut; false: the size that it is now"
    )
