"""The ``evaluate`` block of params.yaml: what is measured, and which checkpoint is called the best."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from etude.params import Schema

Metric = Literal[
    "image_similarity",
    "nearest_similarity",
    "text_alignment",
    "truth_similarity",
    "style_similarity",
    "concept_accuracy",
    "style_accuracy",
    "background_accuracy",
    "diversity",
    "kid",
    "cmmd",
    "validation_loss",
]
METRICS: tuple[Metric, ...] = get_args(Metric)


class Best(Schema):
    """The rule that chooses the best checkpoint: the largest or smallest value; of equal ones the earliest."""

    metric: Metric
    direction: Literal["max", "min"]


class Validation(Schema):
    """The loss at fixed noise and fixed timesteps, equal for all checkpoints and methods."""

    prompt: str = Field(description="the text it is conditioned on; [name] is the method's name")
    images: PositiveInt = Field(description="at most so many training pictures, evenly chosen")
    timesteps: list[Annotated[int, Field(ge=0, le=999)]] = Field(min_length=1)
    seed: NonNegativeInt


class Evaluate(Schema):
    """How checkpoints are measured."""

    clip: str = Field(description="the folder of the CLIP that measures")
    truths: str = Field(min_length=1, description="folder in which <set>-truth may lie: pictures kept back")
    judge: str = Field(min_length=1, description="folder of the judge that names concept, style and background")
    judging: bool = Field(description="whether the judge is asked, where a set brings pictures kept back")
    seeds: list[NonNegativeInt] = Field(min_length=1, description="pictures a prompt")
    name: str = Field(description="what CLIP reads in the place of [name]; empty: nothing")
    best: Best
    validation: Validation

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for key, values in {"seeds": self.seeds, "validation.timesteps": self.validation.timesteps}.items():
            if len(set(values)) != len(values):
                raise ValueError(f"`{key}` holds a value twice")
        return self
