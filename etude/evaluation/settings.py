"""The ``evaluate`` block of params.yaml: what is measured, and which checkpoint is called the best."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from etude.core.params import Count, Location, Schema, Seed, refuse_twice

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
OF_TRUTHS = ("truth_similarity", "style_similarity", "concept_accuracy", "style_accuracy", "background_accuracy")
OF_THE_JUDGE = OF_TRUTHS[1:]  # what a picture kept back shows, and what a drawn one does
SMALLER = ("kid", "cmmd", "validation_loss")  # is better


class Best(Schema):
    """The rule that chooses the best checkpoint: the largest or smallest value; of equal ones the earliest."""

    metric: Metric
    direction: Literal["max", "min"]

    @model_validator(mode="after")
    def _better(self) -> Self:
        better = "min" if self.metric in SMALLER else "max"
        if self.direction != better and self.metric != "diversity":
            raise ValueError(f"`direction: {self.direction}` would choose the worst `{self.metric}`: write `{better}`")
        return self


class Validation(Schema):
    """The loss at fixed noise and fixed timesteps, equal for all checkpoints and methods."""

    prompt: str = Field(description="the text it is conditioned on; [name] is the method's name")
    images: Count = Field(description="at most so many training pictures, evenly chosen")
    timesteps: list[Annotated[int, Field(ge=0, le=999)]] = Field(min_length=1)
    seed: Seed


class Evaluate(Schema):
    """How checkpoints are measured."""

    clip: Location = Field(description="the folder of the CLIP that measures")
    truths: Location = Field(description="folder in which <set>-truth may lie: pictures kept back")
    judge: Location = Field(description="folder of the judge that names concept, style and background")
    judging: bool = Field(description="whether the judge is asked, where a set brings pictures kept back")
    seeds: list[Seed] = Field(min_length=1, max_length=1000, description="pictures a prompt")
    name: str = Field(description="what CLIP reads in the place of [name]; empty: nothing")
    best: Best
    validation: Validation

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        refuse_twice(**{"seeds": self.seeds, "validation.timesteps": self.validation.timesteps})
        if self.best.metric in OF_THE_JUDGE and not self.judging:
            raise ValueError(f"`best.metric: {self.best.metric}` is the judge's, which `judging: false` leaves out")
        return self
