"""The `prepare` block of params.yaml. Imports nothing heavy: parameters are checked before any work."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from etude.core.params import Schema


class Prepare(Schema):
    """How the pictures of a set become training pictures."""

    added_keys: ClassVar = {"alpha_mask": False}

    resolution: int = Field(ge=32, le=4096, multiple_of=8, description="side of a square picture in pixels")
    buckets: int = Field(
        ge=0, le=2048, multiple_of=8, description="0: squares; else keep shapes, sides multiples of this"
    )
    crop: Literal["center", "focus", "faces", "pad"] = Field(description="what happens to what does not fit the shape")
    split: float = Field(ge=0, lt=1, description="cut pictures whose shape differs by this share or less; 0: never")
    split_overlap: float = Field(ge=0, le=0.9, description="share by which the cuts of a split picture overlap")
    flip: bool = Field(description="add a mirrored copy of every picture")
    enlarge: bool = Field(description="use pictures that are too small, enlarged; false: list them, leave them out")
    background: str = Field(pattern=r"^#[0-9a-fA-F]{6}$", description="colour under transparency and around `pad`")
    alpha_mask: bool = Field(description="make a mask of a picture's transparency, unless a mask lies beside it")
    near_duplicates: float = Field(ge=0, le=0.5, description="list pairs that differ in this share of a signature")
    unreadable: Literal["skip", "stop"] = Field(description="what happens at a file that cannot be read")

    @model_validator(mode="after")
    def _buckets_fit(self) -> Prepare:
        if self.buckets * 2 > self.resolution:
            raise ValueError(f"buckets of {self.buckets} px are too coarse for a resolution of {self.resolution} px")
        return self

    @property
    def colour(self) -> tuple[int, int, int]:
        """The background as (red, green, blue)."""
        red, green, blue = bytes.fromhex(self.background[1:])
        return red, green, blue
