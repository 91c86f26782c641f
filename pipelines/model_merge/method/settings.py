"""The schema of the method's params.yaml."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from etude.base.settings import Sampling
from etude.core.mixins import Models
from etude.core.params import Count, Location, MethodParams, Part, Rate, Schema, Seed, Steps, nearest, refuse_twice

from .merging.blocks import COUNT, PRESETS, weights_of
from .merging.formula_names import MANY, FormulaName, domain_fault, takes

Weighing = Annotated[float, Field(ge=-100, le=100)]


class Weight(Schema):
    """A number of the formula: ``unet`` for the blocks of the UNet, ``rest`` for all other weights."""

    unet: Weighing | Annotated[list[Weighing], Field(min_length=COUNT, max_length=COUNT)] | str
    rest: Weighing

    @model_validator(mode="after")
    def _known(self) -> Weight:
        if isinstance(self.unet, str) and self.unet not in PRESETS:
            raise ValueError(f"there is no preset `{self.unet}`{nearest(self.unet, PRESETS)}")
        return self


class Learning(Schema):
    """How task arithmetic's weights are learned, one for each model and output channel.

    Each model draws its prompts. On the noisy latents of these pictures, the merge learns to predict what that model
    predicts.
    """

    steps: int = Field(ge=0, le=1_000_000)
    batch_size: Count
    learning_rate: Rate
    importance: list[Rate]
    prompts: dict[str, Annotated[list[str], Field(min_length=1)]]
    seeds: list[Seed] = Field(min_length=1, max_length=1000)
    drawing: Sampling
    resume_every: Steps
    log_every: Steps

    @model_validator(mode="after")
    def _each_once(self) -> Learning:
        refuse_twice(seeds=self.seeds, **{f"prompts.{letter}": texts for letter, texts in self.prompts.items()})
        return self


class Params(Models, MethodParams):
    """The method's params.yaml."""

    refused_keys: ClassVar = {"start": "a merge begins with its `models`"}

    models: dict[Annotated[str, Field(pattern=r"^([a-z]|vae)$")], Location] = Field(min_length=1)
    formula: FormulaName
    alpha: Weight
    beta: Weight
    weights: list[Weighing]
    learning: Learning
    density: float = Field(gt=0, le=1)
    parts: list[Literal["unet", "text", "vae"]] = Field(min_length=1)
    clip: bool
    rebasin: bool
    result: Literal["checkpoint", "lora"]
    rank: int = Field(ge=0, le=1024)
    clamp: float = Field(gt=0, le=1)
    save: Literal["fp32", "fp16", "bf16"]

    @model_validator(mode="after")
    def _fit(self) -> Params:
        letters = [name for name in self.models if name != "vae"]
        if letters != [chr(ord("a") + i) for i in range(len(letters))]:
            raise ValueError("the keys of `models` must be a, b, c … in this order, and may include vae")
        if fault := takes(self.formula, len(letters)):
            raise ValueError(f"{self.formula} {fault}")
        alphas, betas = ((*weights_of(each.unet), each.rest) for each in (self.alpha, self.beta))
        if fault := domain_fault(self.formula, alphas, betas, self.weights):
            raise ValueError(f"{self.formula} {fault}")
        if self.formula in MANY and len(self.weights) != len(letters):
            raise ValueError(f"`weights` has {len(self.weights)} numbers for {len(letters)} models: write one for each")
        if self.learns and list(self.learning.prompts) != letters:
            raise ValueError(
                f"`learning.prompts` has the keys {', '.join(self.learning.prompts)}, "
                f"but `models` has {', '.join(letters)}"
            )
        if self.learns and len(self.learning.importance) != len(letters):
            raise ValueError(
                f"`learning.importance` has {len(self.learning.importance)} numbers for {len(letters)} models"
            )
        refuse_twice(parts=self.parts)
        if self.result == "lora" and self.rank == 0 and self.formula != "task_arithmetic":
            raise ValueError("`rank: 0` concatenates LoRAs, which only task_arithmetic supports: set `rank` above 0")
        return self

    @property
    def learns(self) -> bool:
        """Whether a weight is learned for each channel."""
        return self.formula == "task_arithmetic" and "unet" in self.parts and self.learning.steps > 0

    @property
    def base_parts(self) -> tuple[Part, ...]:
        """No parts: a merge reads weights from files, one at a time."""
        return ()

    def pointed(self, images: str, word: str, kind: str) -> dict[str, Any]:
        """The same name as the method whose artifact is merged: with the class, if the name has one."""
        name = f"{word} {kind}".strip() if " " in self.name else word
        values: dict[str, Any] = {"set": images, "name": name}
        for key, texts in self.learning.prompts.items():
            values[f"learning.prompts.{key}"] = [text.replace(self.name, name) for text in texts]
        return values
