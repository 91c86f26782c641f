"""The result of a merge: the changed weights of a model, or the difference to the base as a LoRA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from etude.core.errors import FormatError
from etude.core.factors import refuse_overflow
from etude.core.families import text_parts
from etude.core.tensors import read_tensors
from etude.core.weights import refuse_infinite
from etude.formats.pairs import Pair, join
from etude.training.report import Report

from .engine import Merge, as_saved
from .low_rank import concatenated, extracted, is_layer
from .sources import Model, Weights
from .stream import write_stream

if TYPE_CHECKING:
    from ..settings import Params


def names_of(models: Sequence[Model], parts: Sequence[str]) -> tuple[list[str], list[str]]:
    """The weights to merge (those in ``parts`` that any model changes), and other weights of the first model."""
    merged = {*parts, *(text_parts() if "text" in parts else ())}
    own = {name for model in models for name in model.own if name.partition(".")[0] in merged}
    return sorted(own), sorted(name for name in models[0].own if name.partition(".")[0] not in merged)


def as_checkpoint(
    merge: Merge, params: Params, models: Sequence[Model], baked: Weights, below: Weights, report: Report
) -> dict[str, Tensor]:
    """Merged weights, and model a's weights of parts that are not merged, memory-mapped from a file in scratch.

    ``baked``: weights of a VAE that replaces the VAEs of all models.
    """
    merged, kept = names_of(models, params.parts)
    first = merge.models[0]
    names = sorted({*merged, *kept, *baked})
    shapes = {name: below[name].shape for name in names}  # the same in all models; a LoRA's would take long
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


def as_lora(
    merge: Merge, params: Params, models: Sequence[Model], below: Weights, report: Report
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The merge's difference to the base as pairs of rank ``rank``; with rank 0, the LoRAs are concatenated exactly."""
    names = [name for name in names_of(models, params.parts)[0] if is_layer(name)]
    pairs: dict[str, Pair] = {}
    if params.rank == 0:
        if any(model.pairs is None for model in models):
            raise FormatError("models", "are not all plain LoRAs, which `rank: 0` needs", "set `rank` above 0")
        numbers = {name: merge.numbers(name) for name in names}
        pairs = concatenated([model.pairs or {} for model in models], numbers)
    report.start(0, len(names))
    for number, name in enumerate(names if params.rank else []):
        difference = merge.wide(name) - below[name].float()
        if refuse_infinite("the merge", f"the difference of `{name}`", difference).any():
            pairs[name.removesuffix(".weight")] = extracted(difference, params.rank, params.clamp)
        report.advance(number + 1)
    if not any(pair.alpha and pair.up.any() and pair.down.any() for pair in pairs.values()):
        fault = "equals the base, so there is no difference from which to make a LoRA"
        raise FormatError("the merge", fault, "check `models`, `weights`, `alpha` and `parts`")
    saved = {}
    for name, pair in pairs.items():
        down, up = (as_saved(name, half, merge.dtype) for half in (pair.down, pair.up))
        saved[name] = Pair(down, up, pair.alpha)
    tensors, facts = join(saved)
    refuse_overflow("the merge", tensors, facts)
    return tensors, facts
