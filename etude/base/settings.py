"""The settings of this room. Nothing here imports torch: a typo in params must show before torch is loaded."""

from __future__ import annotations

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from etude.core.params import Count, Scale, Schema, Seed, SetName, refuse_twice

SamplerName = Literal["ddim", "euler", "euler_a", "dpm++"]
SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)


class Sampling(Schema):
    """How pictures are drawn: the block `sampling` of params.yaml. Its fields are keywords of `generate`."""

    sampler: SamplerName
    steps: int = Field(ge=1, le=500)  # of the 1000 that it was trained on; schedulers overrun when they need nearly all
    guidance: Scale  # 1 or less: the negative prompt is not used, and a step costs half
    negative: str
    clip_skip: int = Field(ge=0, le=10)  # last layers of the text encoder that are left out; A1111's "Clip skip" - 1


class ClassImages(Sampling):
    """What the base draws of the class of a thing, so that it is kept: a method's block `class_images`."""

    prompts: list[str] = Field(min_length=1, description="drawn in turn, and what the pictures are learned under")
    count: int = Field(ge=0, le=100_000, description="pictures drawn; 0: only the real ones")
    seed: Seed = Field(description="of the first picture; each of the others has the next")
    batch_size: Count = Field(description="pictures drawn at once")
    real: list[SetName] = Field(description="image sets whose pictures and captions are used besides")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        refuse_twice(prompts=self.prompts, real=self.real)
        return self


class ClassPictures(Schema):
    """A method that learns pictures of the class besides its own: it has a stage *class_images*."""

    class_images: ClassImages
