"""Schemas for texts, drawing and class images. Nothing here imports torch: params are checked before it is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from etude.core.params import Count, Scale, Schema, Seed, SetName, refuse_twice

SamplerName = Literal["ddim", "euler", "euler_a", "dpm++"]
SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)


class Text(Schema):
    """How all stages read texts: the block `text` of params.yaml."""

    chunks: int = Field(ge=1, le=20, description="chunks of 75 tokens that each text gets; what is longer is cut")
    rule: Literal["a1111", "kohya"] = Field(description="where a text is split, and how its chunks are joined")
    emphasis: Literal["none", "a1111", "kohya"] = Field(description="what weights in brackets do: (word:1.2), [word]")

    @property
    def is_plain(self) -> bool:
        """Whether texts are read as CLIP reads them: the first 75 tokens, with brackets as characters."""
        return self.chunks == 1 and self.emphasis == "none"

    @property
    def follows_a1111(self) -> bool:
        """Whether brackets are read as in A1111, with or without "No norm": then they may also hold prompt editing."""
        return self.emphasis == "a1111" or (self.emphasis == "kohya" and self.rule == "a1111")


PLAIN = Text(chunks=1, rule="a1111", emphasis="none")


class OneChunk(Schema):
    """A method that must know where each word is in a text. So its texts have one chunk, and no weights in brackets."""


def text_faults(params: Schema, text: Text) -> Iterator[tuple[str, str]]:
    """The faults of a method that cannot read texts as ``text`` says, and what to do."""
    if isinstance(params, OneChunk) and not text.is_plain:
        fault = "this method reads 75 tokens without weights, but params.yaml sets `text.chunks` or `text.emphasis`"
        yield fault, "write `text.chunks: 1` and `text.emphasis: none` in params.yaml, or leave the method out"


class Sampling(Schema):
    """How pictures are drawn. `generate` takes these fields as keyword arguments."""

    sampler: SamplerName
    steps: int = Field(ge=1, le=500)  # training has 1000; schedulers fail with nearly as many
    guidance: Scale  # 1 or less: the negative prompt is not used, and a step takes half the time
    negative: str
    clip_skip: int = Field(ge=0, le=10)  # skipped last layers of the text encoder; A1111's "Clip skip" - 1


class ClassImages(Sampling):
    """The block `class_images`: pictures of the class, drawn by the base.

    They are learned beside your own, so that the model does not forget the class.
    """

    prompts: list[str] = Field(description="prompts, used in turn; they are also the training texts")
    count: int = Field(ge=0, le=100_000, description="pictures drawn; 0: only the real ones")
    seed: Seed = Field(description="of the first picture; the others have the following seeds")
    batch_size: Count = Field(description="pictures drawn at once")
    real: list[SetName] = Field(description="image sets whose pictures and captions are also used")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        refuse_twice(prompts=self.prompts, real=self.real)
        if self.count and not self.prompts:
            raise ValueError(f"`prompts` is empty, and `count` is {self.count}: write a prompt there, such as `dog`")
        return self


NONE_DRAWN: dict[str, Any] = {"prompts": [], "count": 0, "seed": 1000, "batch_size": 8, "real": []}
NONE_DRAWN |= {"sampler": "dpm++", "steps": 20, "guidance": 4.0, "negative": "", "clip_skip": 0}


class HasClassImages(Schema):
    """What the stage *class_images* reads of a method's params.yaml."""

    class_images: ClassImages
    prior_weight: Scale = Field(description="weight of the class images relative to your own; 0: no class images")

    @property
    def drawn(self) -> int:
        """How many class images are drawn: none if they would have no weight."""
        return self.class_images.count if self.prior_weight else 0


class KeepsClass(HasClassImages):
    """A method that can also learn pictures of the class: it has a stage *class_images*."""

    added_keys: ClassVar = {"prior_weight": 0.0, "prior_batch_size": 1, "class_images": NONE_DRAWN}

    prior_batch_size: Count = Field(description="class images in each batch, in addition to your own")

    @model_validator(mode="after")
    def _has_what_it_weighs(self) -> Self:
        if self.prior_weight and not (self.class_images.count or self.class_images.real):
            raise ValueError(
                "`prior_weight` needs pictures of the class: raise `class_images.count`, "
                "or add an image set to `class_images.real`"
            )
        return self
