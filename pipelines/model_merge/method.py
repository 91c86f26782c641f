"""Model merge: several models in one, by a formula for each of their weights, without training.

What other methods learned is merged on the base that they learned it on; whole checkpoints and LoRAs are merged alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from etude.params import MethodParams, Schema, nearest
from pipelines.model_merge.merging.blocks import COUNT, PRESETS
from pipelines.model_merge.merging.recipe import MANY, FormulaName, record, takes

if TYPE_CHECKING:
    from torch import Tensor

    from etude.artifact import Artifact
    from etude.diffusion.base import Base
    from etude.method import Input
    from etude.training.report import Report
    from pipelines.model_merge.merging.engine import Merge
    from pipelines.model_merge.merging.sources import Model, Weights

bases = ("sd1", "sd2", "sdxl")
formats = ("ldm_checkpoint", "diffusers_checkpoint", "kohya_lora", "diffusers_lora")
axes = {"strength": 1.0}

PARTS = {"unet": ("unet",), "text": ("text_encoder", "text_encoder_2"), "vae": ("vae",)}


class Weight(Schema):
    """A number of a formula, by block."""

    unet: float | Annotated[list[float], Field(min_length=COUNT, max_length=COUNT)] | str
    rest: float

    @model_validator(mode="after")
    def _known(self) -> Weight:
        if isinstance(self.unet, str) and self.unet not in PRESETS:
            raise ValueError(f"there is no preset `{self.unet}`{nearest(self.unet, PRESETS)}")
        return self


class Params(MethodParams):
    """pipelines/model_merge/params.yaml."""

    models: dict[Annotated[str, Field(pattern=r"^([a-z]|vae)$")], str] = Field(min_length=1)
    formula: FormulaName
    alpha: Weight
    beta: Weight
    weights: list[float]
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
        if self.result == "lora" and self.rank == 0 and self.formula != "task_arithmetic":
            raise ValueError("rank 0, LoRAs side by side, is task_arithmetic's; another formula needs a rank")
        return self


def build(*, base: Base, models: Mapping[str, Input], params: Params, report: Report) -> Artifact:
    """Merge; weights are read from files and written to one, one tensor at a time."""
    from etude.artifact import Artifact
    from etude.diffusion.base import DTYPES
    from etude.method import Input
    from pipelines.model_merge.merging import engine
    from pipelines.model_merge.merging.sources import open_base, open_model

    below = open_base(base.path)
    opened = {name: open_model(m.path, below, base.family) for name, m in models.items() if name != "vae"}
    weights = _rebased(base, opened) if params.rebasin else [model.weights for model in opened.values()]
    merge = engine.make(params, weights, below, DTYPES[params.save], report.seed)
    facts: dict[str, Any] = {"name": params.name, "metadata": record(params, models, Input(base.path, ""))}
    if params.result == "lora":
        tensors, told = _as_lora(merge, params, list(opened.values()), below, report)
        return Artifact("model_merge", tensors, facts | told | {"formats": ["kohya_lora", "diffusers_lora"]})
    tensors = _as_checkpoint(merge, params, list(opened.values()), models.get("vae"), report)
    return Artifact("model_merge", tensors, facts | {"formats": ["ldm_checkpoint", "diffusers_checkpoint"]})


@contextmanager
def apply(artifact: Artifact, base: Base, strength: float = 1.0) -> Iterator[Base]:
    """The base with the merged weights: W + ``strength`` · (W' - W); leaving brings back its own."""
    from etude.diffusion.hooks import replaced_weights
    from etude.diffusion.weights import parameters_of, parts_of, swapped
    from pipelines.model_merge.merging.low_rank import Fused

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
    from etude.diffusion.family import read_config
    from etude.diffusion.single import config_folder
    from pipelines.model_merge.merging.rebasin import Rebased, block_counter

    configs = config_folder(base.path, base.family) if base.path.is_file() else base.path
    texts = {part: read_config(file) for part in PARTS["text"] if (file := configs / part / "config.json").exists()}
    blocks = block_counter(read_config(configs / "unet" / "config.json"), texts)
    first, *others = (model.weights for model in models.values())
    return [first, *(Rebased(first, other, blocks) for other in others)]


def _names(models: Sequence[Model], parts: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is merged: every weight in ``parts`` that a model does not take from the base; and what the first brings."""
    merged = {part for name in parts for part in PARTS[name]}
    own = {name for model in models for name in model.own if name.partition(".")[0] in merged}
    return sorted(own), sorted(name for name in models[0].own if name.partition(".")[0] not in merged)


def _as_checkpoint(
    merge: Merge, params: Params, models: Sequence[Model], vae: Input | None, report: Report
) -> dict[str, Tensor]:
    """Merged weights, and those of parts that are not merged as model a has them, mapped from a file in scratch."""
    from etude.files import read_tensors
    from pipelines.model_merge.merging.sources import open_vae
    from pipelines.model_merge.merging.stream import write_stream

    merged, kept = _names(models, params.parts)
    baked = open_vae(vae.path) if vae else {}
    first = merge.models[0]
    names = sorted({*merged, *kept, *baked})
    shapes = {name: (baked if name in baked else first)[name].shape for name in names}
    number, wanted = {name: i + 1 for i, name in enumerate(names)}, set(merged)
    report.start(0, len(names))

    def tensor(name: str) -> Tensor:
        report.advance(number[name])
        if name in baked:
            return baked[name]
        return merge.tensor(name) if name in wanted else first[name]

    path = report.scratch / "merged.safetensors"
    write_stream(path, shapes, merge.dtype, tensor)
    return read_tensors(path)[0]


def _as_lora(
    merge: Merge, params: Params, models: Sequence[Model], below: Weights, report: Report
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The merge's difference to the base as pairs of rank ``rank``; rank 0: the LoRAs side by side, which is exact."""
    from etude.errors import FormatError
    from etude.formats.pairs import Pair, join
    from pipelines.model_merge.merging.low_rank import LAYERS, concatenated, extracted

    names = [name for name in _names(models, params.parts)[0] if re.fullmatch(LAYERS, name)]
    pairs: dict[str, Pair] = {}
    if params.rank == 0:
        if any(model.pairs is None for model in models):
            raise FormatError("models", "are not all LoRAs, as rank 0 asks for", "give a `rank` above 0")
        α = {name: merge.numbers(name).alpha for name in names}
        pairs = concatenated([model.pairs or {} for model in models], params.weights, α)
    report.start(0, len(names))
    for number, name in enumerate(names if params.rank else []):
        difference = merge.wide(name) - below[name].float()
        if difference.any():
            pairs[name.removesuffix(".weight")] = extracted(difference, params.rank, params.clamp)
        report.advance(number + 1)
    saved = {name: Pair(p.down.to(merge.dtype), p.up.to(merge.dtype), p.alpha) for name, p in pairs.items()}
    return join(saved)
