"""The settings of Custom Diffusion's augmentation, and the kinds of its views. Nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from etude.core.params import Schema, Seed

Size = Annotated[float, Field(gt=0, le=10)]
Kind = Literal["far", "whole", "near"]
MASK = "mask"  # the tensor of a view that is 1 where the picture is
KINDS = "kinds.json"  # a file beside the shards of views, with the kind of each view


class Augmentation(Schema):
    """The block `augmentation`: smaller and larger views of each picture. A size of 1 is that of the picture itself."""

    views: int = Field(ge=0, le=10_000, description="views of each picture; 0: the picture itself")
    smaller: float = Field(ge=0, le=1, description="share of the views that are smaller; the others are larger")
    smallest: float = Field(gt=0, le=1)
    largest: tuple[Size, Size] = Field(strict=False, description="size of a larger view: from, to")
    far_below: float = Field(ge=0, le=1, description="below this size, a view's text begins with a phrase of `far`")
    seed: Seed

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not 1 <= self.largest[0] <= self.largest[1]:
            raise ValueError(f"`largest` is {list(self.largest)}: write [from, to] with 1 ≤ from ≤ to")
        return self


class HasViews(Schema):
    """A method that learns smaller and larger views of its pictures: it has a stage *views*."""

    augmentation: Augmentation
