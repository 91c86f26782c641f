"""The schema of the method's params.yaml.

The noise of 0.001 on the negative word's initial rows and the weight decay of 0.01 are from the authors' code. Two
things differ from it: gradients of both words are clipped by their common norm, and ``reconstruction`` compares with
the picture decoded from its latents, not with the picture itself, so that the distance can be 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from etude.core.mixins import ReadsCaptions
from etude.core.params import Part, Rate, Scale, Schema
from etude.training.plan import Trained
from etude.training.preview import HasPreview
from etude.training.sets import FurtherSets
from etude.training.start import Start, Starts, rows, shape_faults
from etude.training.tags import HasTags, refuse_idle_tags
from etude.training.templates import Template, refuse_idle_reading

from .guidance import parse_guidance

if TYPE_CHECKING:
    from torch import nn


class Word(Schema):
    """The block ``positive`` or ``negative``: the word that is learned for the prompt, or for the negative prompt."""

    vectors: int = Field(ge=1, le=75)  # a prompt has 75 places between start and end
    initializer: str
    noise: Scale


class Params(ReadsCaptions, HasTags, Starts, Trained, HasPreview, FurtherSets):
    """The method's params.yaml."""

    needs_class: ClassVar[bool] = True

    trigger: Literal[True]
    positive: Word
    negative: Word
    negative_rate: Rate
    templates: list[Template] = Field(min_length=1)
    guidance: Annotated[float, Field(gt=0, le=100)] | str
    reconstruction: Scale
    attention: bool
    clip_skip: int = Field(ge=0, le=10)
    save: Literal["fp32", "fp16", "bf16"]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        parse_guidance(self.guidance)
        refuse_idle_reading(self.templates, self.reads)
        refuse_idle_tags(self.tags, self.templates, self.reads)
        return self

    @property
    def base_parts(self) -> tuple[Part, ...]:
        """With ``reconstruction``, also the VAE: answers are compared as pictures."""
        return ("unet", "vae", "text") if self.reconstruction else ("unet", "text")

    @property
    def step_parts(self) -> tuple[Part, ...]:
        """All that is loaded for `build`."""
        return self.base_parts

    def pointed(self, images: str, word: str, kind: str) -> dict[str, Any]:
        """The positive word starts from the word of the class."""
        return {"set": images, "name": word, "positive.initializer": kind}

    def misfits(self, start: Start, parts: Mapping[str, nn.Module]) -> Iterator[str]:
        """Compare the number of vectors of each word."""
        wanted: dict[str, tuple[int, ...]] = {}
        for side, word in (("positive", self.positive), ("negative", self.negative)):
            found = {shape[0] for name, shape in start.shapes.items() if name.startswith(f"{side}.")}
            if found != {word.vectors}:
                count = " and ".join(map(str, sorted(found))) or "no"
                yield f"has {count} vectors of the {side} word, and `{side}.vectors` is {word.vectors}"
            wanted |= rows(parts, word.vectors, f"{side}.")
        yield from shape_faults(start.shapes, wanted)
