"""Model merge: several models in one, by a formula for each of their weights.

What other methods learned is merged on the base that they learned it on; whole checkpoints and LoRAs are merged alike.
No pictures are needed: where weights are learned, the models teach.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from etude.base.settings import Sampling
from etude.core.params import Count, Location, MethodParams, Rate, Schema, Seed, Steps, nearest, refuse_twice
from pipelines.model_merge.method.merging.blocks import COUNT, PRESETS
from pipelines.model_merge.method.merging.recipe import MANY, FormulaName, record, takes

if TYPE_CHECKING:
    from torch import Tensor

    from etude.base.base import Base
    from etude.core.artifact import Artifact
    from etude.core.method import Input
    from etude.training.report import Report
    from pipelines.model_merge.method.merging.engine import Merge
    from pipelines.model_merge.method.merging.sources import Model, Weights

bases = ("sd1", "sd2", "sdxl")
formats = ("ldm_checkpoint", "diffusers_checkpoint", "kohya_lora", "diffusers_lora")
axes = {"strength": 1.0}


Weighing = Annotated[float, Field(ge=-100, le=100)]


class Weight(Schema):
    """A number of a formula, by block."""

    unet: Weighing | Annotated[list[Weighing], Field(min_length=COUNT, max_length=COUNT)] | str
    rest: Weighing

    @model_validator(mode="after")
    def _known(self) -> Weight:
        if isinstance(self.unet, str) and self.unet not in PRESETS:
            raise ValueError(f"there is no preset `{self.unet}`{nearest(self.unet, PRESETS)}")
        return self


class Learning(Schema):
    """How weights of single channels are found: the models draw, and the merge is to answer as each of them does."""

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


class Params(MethodParams):
    """pipelines/model_merge/params.yaml."""

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
            raise ValueError("models are called a, b, c … in this order, and vae")
        if fault := takes(self.formula, len(letters)):
            raise ValueError(f"{self.formula} {fault}")
        if self.formula in MANY and len(self.weights) != len(letters):
            raise ValueError(f"`weights` has {len(self.weights)} numbers for {len(letters)} models")
        if self.learns and list(self.learning.prompts) != letters:
            raise ValueError(f"`learning.prompts` is of {', '.join(self.learning.prompts)}, not of each model")
        if self.learns and len(self.learning.importance) != len(letters):
            raise ValueError(
                f"`learning.importance` has {len(self.learning.importance)} numbers for {len(letters)} models"
            )
        refuse_twice(parts=self.parts)
        if self.result == "lora" and self.rank == 0 and self.formula != "task_arithmetic":
            raise ValueError("rank 0, LoRAs side by side, is task_arithmetic's; another formula needs a rank")
        return self

    @property
    def learns(self) -> bool:
        """Whether channels get weights of their own."""
        return self.formula == "task_arithmetic" and "unet" in self.parts and self.learning.steps > 0

    def pointed(self, images: str, word: str, kind: str) -> dict[str, Any]:
        """The name as that of the method whose artifact is merged: with the class, where it had one."""
        name = f"{word} {kind}".strip() if " " in self.name else word
        taught = self.learning.prompts.items()
        said = {f"learning.prompts.{key}": [text.replace(self.name, name) for text in texts] for key, texts in taught}
        return {"set": images, "name": name, **said}

    def sources(self) -> dict[str, str]:
        """The models that are merged."""
        return {f"models.{name}": path for name, path in self.models.items()}


def build(*, base: Base, models: Mapping[str, Input], params: Params, report: Report) -> Artifact:
    """Merge; weights are read from files and written to one, one tensor at a time, unless they are learned first."""
    from dataclasses import replace

    from etude.base.base import DTYPES
    from etude.core.artifact import Artifact
    from etude.core.method import Input
    from pipelines.model_merge.method.merging import engine
    from pipelines.model_merge.method.merging.results import as_checkpoint, as_lora
    from pipelines.model_merge.method.merging.sources import open_base, open_model

    below = open_base(base.path)
    opened = {name: open_model(m.path, below, base.family) for name, m in models.items() if name != "vae"}
    ordered = _rebased(base, opened) if params.rebasin else [model.weights for model in opened.values()]
    parents = [replace(model, weights=weights) for model, weights in zip(opened.values(), ordered, strict=True)]
    merge = engine.make(params, ordered, below, DTYPES[params.save], report.seed)
    if params.learns:
        merge = replace(merge, learned=_learned(merge, params, base, parents, report))
    facts: dict[str, Any] = {"name": params.name, "metadata": record(params, models, Input(base.path, ""))}
    if params.result == "lora":
        tensors, told = as_lora(merge, params, parents, below, report)
        return Artifact("model_merge", tensors, facts | told | {"formats": ["kohya_lora", "diffusers_lora"]})
    tensors = as_checkpoint(merge, params, parents, models.get("vae"), report)
    return Artifact("model_merge", tensors, facts | {"formats": ["ldm_checkpoint", "diffusers_checkpoint"]})


@contextmanager
def apply(artifact: Artifact, base: Base, strength: float = 1.0) -> Iterator[Base]:
    """The base with the merged weights: W + ``strength`` · (W' - W); leaving brings back its own."""
    from etude.diffusion.hooks import replaced_weights
    from etude.diffusion.weights import parameters_of, parts_of, swapped
    from pipelines.model_merge.method.merging.low_rank import Fused

    tensors: Mapping[str, Tensor] = artifact.tensors
    if "rank" in artifact.facts:
        own = {n: p.detach() for part, m in parts_of(base).items() for n, p in parameters_of(part, m).items()}
        tensors = dict(Fused(artifact.tensors, artifact.facts, own))
    vae = {name.removeprefix("vae."): tensor for name, tensor in tensors.items() if name.startswith("vae.")}
    if strength != 1:
        now = dict(base.vae.named_parameters())
        vae = {n: now[n].float() + strength * (t.float().to(now[n].device) - now[n].float()) for n, t in vae.items()}
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith("vae.")}
    with replaced_weights(base.vae, vae), swapped(base, rest, strength):
        yield base


def _rebased(base: Base, models: Mapping[str, Model]) -> list[Weights]:
    """The weights of every model, those after the first in the order of its hidden units."""
    from etude.base.family import read_config
    from etude.base.single import config_folder
    from pipelines.model_merge.method.merging.rebasin import Rebased, block_counter
    from pipelines.model_merge.method.merging.results import PARTS

    configs = config_folder(base.path, base.family) if base.path.is_file() else base.path
    texts = {part: read_config(file) for part in PARTS["text"] if (file := configs / part / "config.json").exists()}
    blocks = block_counter(read_config(configs / "unet" / "config.json"), texts)
    first, *others = (model.weights for model in models.values())
    return [first, *(Rebased(first, other, blocks) for other in others)]


def _learned(merge: Merge, params: Params, base: Base, models: Sequence[Model], report: Report) -> Weights:
    """Weights for the channels of the UNet, learned with the text encoders that the merge will have."""
    from etude.base.loading import load_base
    from pipelines.model_merge.method.merging.learning import learn
    from pipelines.model_merge.method.merging.results import PARTS, names_of

    merged, kept = names_of(models, params.parts)
    texts = {name: merge.wide(name) for name in merged if name.startswith(PARTS["text"])}
    texts |= {name: merge.models[0][name] for name in kept if name.startswith(PARTS["text"])}
    whole = load_base(base.path, device=base.device, parts=("unet", "text"))
    return learn(whole, models, texts, params.weights, params.learning, report)
