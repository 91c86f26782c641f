"""Schemas for drawing and for class pictures. Nothing here imports torch: params are checked before torch is loaded."""

from __future__ import annotations

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from etude.core.params import Count, Scale, Schema, Seed, SetName, refuse_twice

SamplerName = Literal["ddim", "euler", "euler_a", "dpm++"]
SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)


class Sampling(Schema):
    """How pictures are drawn: the block `sampling` of params.yaml. Its fields are keywords of `generate`."""

    sampler: SamplerName
    steps: int = Field(ge=1, le=500)  # of 1000 in training; with nearly all of them, schedulers fail
    guidance: Scale  # 1 or less: the negative prompt is not used, and a step takes half the time
    negative: str
    clip_skip: int = Field(ge=0, le=10)  # skipped last layers of the text encoder; A1111's "Clip skip" - 1


class ClassImages(Sampling):
    """Pictures of the class, drawn by the base, so that the model does not forget the class: block `class_images`."""

    prompts: list[str] = Field(min_length=1, description="prompts, used in turn; they are also the training texts")
    count: int = Field(ge=0, le=100_000, description="pictures drawn; 0: only the real ones")
    seed: Seed = Field(description="of the first picture; the others have the following seeds")
    batch_size: Count = Field(description="pictures drawn at once")
    real: list[SetName] = Field(description="image sets whose pictures and captions are also used")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        refuse_twice(prompts=self.prompts, real=self.real)
        return self


class ClassPictures(Schema):
    """A method that also learns pictures of the class: it has a stage *class_images*."""

    class_images: ClassImages
