"""One merge: its models, its formula, and the formula's numbers for each tensor; computed one tensor at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from etude.core.errors import FormatError
from etude.core.randomness import generator
from etude.core.weights import in_precision, is_finite

from .blocks import block_of, weights_of
from .formulas import FORMULAS, Numbers
from .pieces import Pieces

if TYPE_CHECKING:
    from ..settings import Params, Weight

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Merge:
    """Models in the order of their letters; the base is added at the end if the formula needs one more."""

    models: Sequence[Weights]
    formula: str
    alpha: Weight
    beta: Weight
    density: float
    weights: tuple[float, ...]
    clip: bool
    dtype: torch.dtype
    seed: int
    learned: Weights = field(default_factory=dict)  # tensor → [rows, models]: replace ``weights``

    def tensor(self, name: str) -> Tensor:
        """The merged tensor, in the precision of saving."""
        tensors = [model[name] for model in self.models]
        if not tensors[0].is_floating_point():
            return tensors[0]
        for tensor in tensors[1:]:
            if tensor.shape != tensors[0].shape:
                fault = f"has the shape {list(tensors[0].shape)} in one model and {list(tensor.shape)} in another"
                raise FormatError(name, fault, "merge models of one family and kind")
        return as_saved(name, self._merged(name, tensors), self.dtype)

    def wide(self, name: str) -> Tensor:
        """The merged tensor in float32, for further computation."""
        return replace(self, dtype=torch.float32).tensor(name)

    def numbers(self, name: str) -> Numbers:
        """The numbers of the formula for a tensor."""
        place = block_of(name)
        α, β = (w.rest if place is None else weights_of(w.unet)[place] for w in (self.alpha, self.beta))
        weights = self.learned[name].unbind(1) if name in self.learned else self.weights
        return Numbers(α, β, self.density, weights)

    def _merged(self, name: str, tensors: list[Tensor]) -> Tensor:
        formula, numbers = FORMULAS[self.formula], self.numbers(name)
        if formula.whole:
            return self._clipped(formula.merge(tensors, numbers, None), tensors)
        pieces = Pieces(tensors)
        measured = formula.measure(pieces, numbers) if formula.measure and pieces.count else None
        result = torch.empty(pieces.count, dtype=pieces.dtype)
        length = pieces.count // max(len(tensors[0]), 1)
        for start in range(0, pieces.count, pieces.size):
            values = slice(start, min(start + pieces.size, pieces.count))
            parts = pieces.at(start)
            extra = generator(self.seed, "merge", name, start) if formula.random else measured
            result[values] = self._clipped(formula.merge(parts, numbers.at(values, length), extra), parts)
        return result.view(tensors[0].shape)

    def _clipped(self, result: Tensor, parts: Sequence[Tensor]) -> Tensor:
        """The result; with ``clip``, limited to the range between the first two models' values."""
        if not self.clip or len(parts) < 2:
            return result
        low, high = torch.minimum(parts[0], parts[1]), torch.maximum(parts[0], parts[1])
        return result.clamp(low, high)


def make(params: Params, models: Sequence[Weights], base: Weights, dtype: torch.dtype, seed: int) -> Merge:
    """The merge described by params.yaml."""
    wanted = FORMULAS[params.formula].models
    return Merge(
        models=list(models) if wanted and len(models) == wanted else [*models, base],
        formula=params.formula,
        alpha=params.alpha,
        beta=params.beta,
        density=params.density,
        weights=tuple(params.weights),
        clip=params.clip,
        dtype=dtype,
        seed=seed,
    )


def as_saved(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor in the precision that is saved; raises FormatError if that does not hold its values."""
    if tensor.numel() and not is_finite(tensor):
        fault = "has merged values that are not finite (NaN or infinity)"
        raise FormatError(name, fault, "choose smaller numbers for the formula")
    return in_precision("the merge", name, tensor, dtype)
