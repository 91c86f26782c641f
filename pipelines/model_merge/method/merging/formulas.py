"""The formulas of merging, element by element, with their authors' letters: models a, b, c and numbers α, β.

Every formula is computed on pieces of flattened tensors, so that memory does not grow with their size; values of a
whole tensor that it needs (a norm, a threshold) are measured in a first pass. Only the two formulas that sort read
whole tensors.

Weighted sum, add difference and the sigmoids are A1111's. The formulas from there to `ties_add_difference` follow
s1dlx/meh, except `train_difference`, which follows hako-mikan's supermerger. `slerp` is from Shoemake (1985), task
vectors from Ilharco (2022, arXiv:2212.04089), TIES from Yadav (2023, arXiv:2306.01708), DARE from Yu (2023,
arXiv:2311.03099).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import sorting
from .pieces import Pieces, kth_smallest, total

Parts = Sequence[Tensor]  # the same piece of every model
Measured = Sequence[float]  # values measured over the whole tensor


@dataclass(frozen=True)
class Numbers:
    """The numbers of a formula for one tensor."""

    alpha: float
    beta: float
    density: float = 1.0  # share of a task vector's values that is kept
    weights: tuple[float | Tensor, ...] = ()  # one for each task vector; a tensor has one for each row

    def at(self, values: slice, length: int) -> Numbers:
        """The numbers of a piece: ``values`` of the flattened tensor, whose rows have ``length`` values each."""
        if not any(isinstance(weight, Tensor) for weight in self.weights):
            return self
        rows = torch.arange(values.start, values.stop) // length
        return replace(self, weights=tuple(w[rows] if isinstance(w, Tensor) else w for w in self.weights))


@dataclass(frozen=True)
class Formula:
    """How a piece is merged. ``models`` is the number of models; 0: two or more, and the base is the last part."""

    models: int
    merge: Callable[..., Tensor]  # (parts, numbers, measured values or, if ``random``, a random generator)
    measure: Callable[[Pieces, Numbers], Measured] | None = None
    whole: bool = False
    random: bool = False


def weighted_sum(x: Parts, n: Numbers, _: Any = None) -> Tensor:
    """(1-α)a + αb."""
    return _mix(x[0], x[1], n.alpha)


def _mix(a: Tensor, b: Tensor, α: float) -> Tensor:
    """(1-α)a + αb, exact at both ends."""
    return a.clone() if α == 0 else b.clone() if α == 1 else (1 - α) * a + α * b


def sigmoid(x: Parts, n: Numbers, _: Any = None) -> Tensor:
    """Weighted sum with α²(3-2α) in place of α: results near 0 and 1 are closer to one model."""
    return _mix(x[0], x[1], n.alpha**2 * (3 - 2 * n.alpha))


def inverse_sigmoid(x: Parts, n: Numbers, _: Any = None) -> Tensor:
    """Weighted sum with 1/2 - sin(asin(1-2α)/3) in place of α, the inverse of `sigmoid`."""
    return _mix(x[0], x[1], 0.5 - math.sin(math.asin(1 - 2 * n.alpha) / 3))


def weighted_subtraction(x: Parts, n: Numbers, _: Any = None) -> Tensor:
    """(a-αβb)/(1-αβ): removes b from a, if a is a weighted sum that contains b."""
    product = n.alpha * n.beta
    return (x[0] - product * x[1]) / (1 - product)


def _angle(pieces: Pieces, _: Numbers) -> Measured:
    """a·b, ‖a‖² and ‖b‖²."""
    return total(pieces, lambda x: [(x[0] * x[1]).sum(), x[0].square().sum(), x[1].square().sum()])


def slerp(x: Parts, n: Numbers, measured: Measured) -> Tensor:
    """Interpolation along the arc between a and b; linear if they are nearly parallel (|cos| above 0.9995)."""
    dot, a, b = measured[0], max(math.sqrt(measured[1]), 1e-8), max(math.sqrt(measured[2]), 1e-8)
    cosine = dot / (a * b)
    if n.alpha in (0, 1) or abs(cosine) > 0.9995:
        return _mix(x[0], x[1], n.alpha)
    θ = math.acos(cosine)
    return (math.sin((1 - n.alpha) * θ) * x[0] + math.sin(n.alpha * θ) * x[1]) / math.sin(θ)


def tensor_sum(x: Parts, n: Numbers, _: Any = None) -> Tensor:
    """a with the rows from share β to share α+β replaced by b's; a range beyond the end continues at the start."""
    dtype = torch.promote_types(x[0].dtype, x[1].dtype)
    a, b = x[0].to(dtype), x[1].to(dtype)
    rows = len(a) if a.ndim else 0
    if n.alpha + n.beta <= 1:
        inner, outer, start, end = b, a, n.beta, n.alpha + n.beta
    else:
        inner, outer, start, end = a, b, n.alpha + n.beta - 1, n.beta
    result = outer.clone()
    result[int(rows * start) : int(rows * end)] = inner[int(rows * start) : int(rows * end)]
    return result


def add_difference(x: Parts, n: Numbers, _: Any = None) -> Tensor:
    """a + α(b-c)."""
    return x[0] + n.alpha * (x[1] - x[2])


def train_difference(x: Parts, n: Numbers, _: Any = None) -> Tensor:
    """a + 1.8α(b-c)·|b-a| / (|b-c| + |b-a|): adds what b learned, less of it where a is already near b."""
    a, b, c = x
    learned, apart = b - c, (b - a).abs()
    return a + 1.8 * n.alpha * learned * (apart / (learned.abs() + apart)).nan_to_num(0)


def sum_twice(x: Parts, n: Numbers, _: Any = None) -> Tensor:
    """(1-β)((1-α)a + αb) + βc."""
    return _mix(_mix(x[0], x[1], n.alpha), x[2], n.beta)


def triple_sum(x: Parts, n: Numbers, _: Any = None) -> Tensor:
    """(1-α-β)a + αb + βc."""
    return (1 - n.alpha - n.beta) * x[0] + n.alpha * x[1] + n.beta * x[2]


def _unit(difference: Tensor, length: float) -> Tensor:
    return difference / length if length else torch.zeros_like(difference)


def _distance(x: Parts, n: Numbers, a: float, b: float) -> tuple[Tensor, Tensor]:
    """√((1-α)d_a² + αd_b²) of the normalised differences to c, and the difference of the weighted sum to c."""
    da, db = _unit(x[0] - x[2], a), _unit(x[1] - x[2], b)
    return ((1 - n.alpha) * da**2 + n.alpha * db**2).sqrt(), _mix(x[0], x[1], n.alpha) - x[2]


def _lengths(pieces: Pieces, n: Numbers) -> Measured:
    squares = total(pieces, lambda x: [(x[0] - x[2]).square().sum(), (x[1] - x[2]).square().sum()])
    a, b = map(math.sqrt, squares)
    both = total(pieces, lambda x: [part.square().sum() for part in _distance(x, n, a, b)])
    return [a, b, *map(math.sqrt, both)]


def euclidean_add_difference(x: Parts, n: Numbers, measured: Measured) -> Tensor:
    """c + the Euclidean mean of both differences, with signs and length of the weighted sum's difference."""
    a, b, length, target = measured
    distance, mixed = _distance(x, n, a, b)
    return x[2] + _unit(torch.copysign(distance, mixed), length) * target


def multiply_difference(x: Parts, n: Numbers, _: Any = None) -> Tensor:
    """c ± |a-c|^(1-α)·|b-c|^α, the geometric mean of both differences, with the sign of (1-β)a + βb - c."""
    a, b, c = x
    size = (a - c).abs() ** (1 - n.alpha) * (b - c).abs() ** n.alpha
    return c + torch.copysign(size, _mix(a, b, n.beta) - c)


def similarity_add_difference(x: Parts, n: Numbers, _: Any = None) -> Tensor:
    """Add difference where a and b differ, (1-α/2)a + (α/2)b where they are similar; β weights the similarity."""
    a, b, c = x
    alike = ((a * b / torch.maximum(a.abs(), b.abs()) ** 2 + 1) / 2 * n.beta).nan_to_num(nan=n.beta)
    return (1 - alike) * (a + n.alpha * (b - c)) + alike * _mix(a, b, n.alpha / 2)


def _ties_thresholds(pieces: Pieces, n: Numbers) -> Measured:
    k = max(int((1 - n.beta) * pieces.count), 1)
    return [kth_smallest(pieces, partial(_difference, number=i), k) for i in (0, 1)]


def _difference(x: Parts, number: int) -> Tensor:
    return x[number] - x[-1]


def _kept(difference: Tensor, threshold: float) -> Tensor:
    return difference * (difference.abs().float() >= threshold)


def ties_add_difference(x: Parts, n: Numbers, measured: Measured) -> Tensor:
    """c + α·mean of the largest share β of both differences, only of values whose sign is the majority's."""
    kept = [_kept(_difference(x, i), measured[i]) for i in (0, 1)]
    signs = [part.sign() for part in kept]
    majority = (signs[0] + signs[1]).sign()
    agree = [(sign == majority).to(x[0].dtype) for sign in signs]
    mean = (agree[0] * kept[0] + agree[1] * kept[1]) / (agree[0] + agree[1])
    return x[2] + n.alpha * mean.nan_to_num(0)


def task_arithmetic(x: Parts, n: Numbers, _: Any = None) -> Tensor:
    """base + α·Σ wᵢ(mᵢ - base)."""
    result = torch.zeros_like(x[-1])
    for weight, model in zip(n.weights, x[:-1], strict=True):
        result += weight * (model - x[-1])
    return x[-1] + n.alpha * result


def _densest(pieces: Pieces, n: Numbers) -> Measured:
    k = pieces.count - max(int(n.density * pieces.count), 1) + 1
    return [kth_smallest(pieces, partial(_difference, number=i), k) for i in range(pieces.models - 1)]


def _consensus(vectors: Sequence[Tensor], n: Numbers, normalize: bool) -> Tensor:
    """Σ wᵢδᵢ over values whose sign is that of the sum; ``normalize`` divides by the sum of their weights."""
    weighted = [weight * vector for weight, vector in zip(n.weights, vectors, strict=True)]
    majority = torch.where(torch.stack(weighted).sum(0) >= 0, 1.0, -1.0).to(weighted[0].dtype)
    agree = [(vector.sign() == majority).to(vector.dtype) for vector in weighted]
    mixed = torch.stack([vector * mask for vector, mask in zip(weighted, agree, strict=True)]).sum(0)
    if not normalize:
        return mixed
    share = torch.stack([weight * mask for weight, mask in zip(n.weights, agree, strict=True)]).sum(0)
    return mixed / torch.where(share == 0, 1.0, share)


def ties(x: Parts, n: Numbers, measured: Measured) -> Tensor:
    """base + α·mean of the largest values of each task vector, only of values whose sign is the majority's."""
    vectors = [_kept(_difference(x, i), measured[i]) for i in range(len(x) - 1)]
    return x[-1] + n.alpha * _consensus(vectors, n, normalize=True)


def _dropped(x: Parts, n: Numbers, source: torch.Generator) -> list[Tensor]:
    """Task vectors; each value is kept with probability d and divided by d, so that the expectation is the same."""
    vectors = []
    for i in range(len(x) - 1):
        stays = torch.rand(x[-1].shape, generator=source) < n.density
        vectors.append(_difference(x, i) * stays / n.density)
    return vectors


def dare_linear(x: Parts, n: Numbers, source: torch.Generator) -> Tensor:
    """Task arithmetic with randomly dropped values."""
    pairs = zip(n.weights, _dropped(x, n, source), strict=True)
    return x[-1] + n.alpha * torch.stack([weight * vector for weight, vector in pairs]).sum(0)


def dare_ties(x: Parts, n: Numbers, source: torch.Generator) -> Tensor:
    """The sum of vectors with randomly dropped values, only of values whose sign is the majority's."""
    return x[-1] + n.alpha * _consensus(_dropped(x, n, source), n, normalize=False)


FORMULAS = {
    "none": Formula(1, lambda x, n, _: x[0].clone()),
    "weighted_sum": Formula(2, weighted_sum),
    "sigmoid": Formula(2, sigmoid),
    "inverse_sigmoid": Formula(2, inverse_sigmoid),
    "weighted_subtraction": Formula(2, weighted_subtraction),
    "slerp": Formula(2, slerp, _angle),
    "tensor_sum": Formula(2, tensor_sum, whole=True),
    "top_k_tensor_sum": Formula(2, lambda x, n, _: sorting.top_k_tensor_sum(x[0], x[1], n.alpha, n.beta), whole=True),
    "add_difference": Formula(3, add_difference),
    "train_difference": Formula(3, train_difference),
    "sum_twice": Formula(3, sum_twice),
    "triple_sum": Formula(3, triple_sum),
    "euclidean_add_difference": Formula(3, euclidean_add_difference, _lengths),
    "multiply_difference": Formula(3, multiply_difference),
    "similarity_add_difference": Formula(3, similarity_add_difference),
    "distribution_crossover": Formula(
        3, lambda x, n, _: sorting.distribution_crossover(x[0], x[1], x[2], n.alpha, n.beta), whole=True
    ),
    "ties_add_difference": Formula(3, ties_add_difference, _ties_thresholds),
    "task_arithmetic": Formula(0, task_arithmetic),
    "ties": Formula(0, ties, _densest),
    "dare_linear": Formula(0, dare_linear, random=True),
    "dare_ties": Formula(0, dare_ties, random=True),
}
