"""The `prepare` block of params.yaml. Imports nothing heavy: parameters are checked before any work."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from etude.core.params import Schema

Resolution = Annotated[int, Field(ge=32, le=4096, multiple_of=8)]
Share = Annotated[float, Field(ge=0, le=0.5)]
ONLY_ITSELF: dict[str, Any] = {"count": 0, "crop": 0.1, "brightness": 0.1, "contrast": 0.1, "saturation": 0.1}


class Copies(Schema):
    """The ``prepare.copies`` block: further copies of each picture, each cut and coloured a little differently."""

    count: int = Field(ge=0, le=1000, description="copies of each picture; 0: none")
    crop: Share = Field(description="at most this share of each side is cut off a copy")
    brightness: Share = Field(description="share by which a copy is brighter or darker at most")
    contrast: Share = Field(description="share by which its contrast is higher or lower at most")
    saturation: Share = Field(description="share by which its colours are stronger or weaker at most")

    @model_validator(mode="after")
    def _differ(self) -> Copies:
        if self.count and not (self.crop or self.brightness or self.contrast or self.saturation):
            raise ValueError(
                f"the {self.count} copies would all be the same: "
                "set `crop`, `brightness`, `contrast` or `saturation` above 0"
            )
        return self


class Prepare(Schema):
    """How the pictures of a set become training pictures."""

    added_keys: ClassVar = {"further_resolutions": [], "alpha_mask": False, "copies": ONLY_ITSELF}

    resolution: Resolution = Field(description="side of a square picture in pixels")
    further_resolutions: list[Resolution] = Field(
        description="every picture again at each of these, unless it would be enlarged"
    )
    buckets: int = Field(
        ge=0, le=2048, multiple_of=8, description="0: squares; else keep shapes, sides multiples of this"
    )
    crop: Literal["center", "focus", "faces", "pad"] = Field(description="what happens to what does not fit the shape")
    split: float = Field(ge=0, lt=1, description="cut pictures whose shape differs by this share or less; 0: never")
    split_overlap: float = Field(ge=0, le=0.9, description="share by which the cuts of a split picture overlap")
    flip: bool = Field(description="add a mirrored copy of every picture")
    copies: Copies
    enlarge: bool = Field(description="use pictures that are too small, enlarged; false: list them, leave them out")
    background: str = Field(pattern=r"^#[0-9a-fA-F]{6}$", description="colour under transparency and around `pad`")
    alpha_mask: bool = Field(description="make a mask of a picture's transparency, unless a mask lies beside it")
    near_duplicates: float = Field(ge=0, le=0.5, description="list pairs that differ in this share of a signature")
    unreadable: Literal["skip", "stop"] = Field(description="what happens at a file that cannot be read")

    @model_validator(mode="after")
    def _buckets_fit(self) -> Prepare:
        smallest = min(self.resolutions)
        if self.buckets * 2 > smallest:
            raise ValueError(
                f"`buckets` {self.buckets} is more than half of the resolution {smallest}: write a lower number"
            )
        return self

    @model_validator(mode="after")
    def _copies_differ(self) -> Prepare:
        colours = self.copies.brightness or self.copies.contrast or self.copies.saturation
        if self.copies.count and self.crop == "pad" and not self.split and not colours:
            raise ValueError(
                "`copies` would all be the same, because `crop: pad` never cuts: "
                "set `brightness`, `contrast` or `saturation` of `copies` above 0"
            )
        return self

    @model_validator(mode="after")
    def _resolutions_differ(self) -> Prepare:
        if len(set(self.resolutions)) < len(self.resolutions):
            raise ValueError(
                f"`resolution` and `further_resolutions` have a number twice: together they are {self.resolutions}"
            )
        return self

    @property
    def resolutions(self) -> list[int]:
        """All resolutions, `resolution` first."""
        return [self.resolution, *self.further_resolutions]

    @property
    def largest(self) -> Prepare:
        """The same settings with only the largest resolution."""
        return self.at(max(self.resolutions))

    def at(self, resolution: int) -> Prepare:
        """The same settings with only one resolution."""
        return self.model_copy(update={"resolution": resolution, "further_resolutions": []})

    @property
    def colour(self) -> tuple[int, int, int]:
        """The background as (red, green, blue)."""
        red, green, blue = bytes.fromhex(self.background[1:])
        return red, green, blue
