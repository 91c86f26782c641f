"""SDXL's UNet reads a size with each picture: that of the original file, or that of the training picture.

Podell et al., 2023 (arXiv:2307.01952, 2.2) train with the original's size. So do diffusers' and kohya's scripts.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from etude.core.params import Schema


class TellsSizes(Schema):
    """A method that can give the UNet the original sizes of its pictures."""

    added_keys: ClassVar = {"original_sizes": False}

    original_sizes: bool = Field(
        description="SDXL is told each picture's original size and where it was cut; false: the size that it is now"
    )
