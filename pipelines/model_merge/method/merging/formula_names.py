"""The names of the formulas in params.yaml, and the models and numbers that each takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

FormulaName = Literal[
    "none",
    "weighted_sum",
    "sigmoid",
    "inverse_sigmoid",
    "weighted_subtraction",
    "slerp",
    "tensor_sum",
    "top_k_tensor_sum",
    "add_difference",
    "train_difference",
    "sum_twice",
    "triple_sum",
    "euclidean_add_difference",
    "multiply_difference",
    "similarity_add_difference",
    "distribution_crossover",
    "ties_add_difference",
    "task_arithmetic",
    "ties",
    "dare_linear",
    "dare_ties",
]
MANY: tuple[FormulaName, ...] = ("task_arithmetic", "ties", "dare_linear", "dare_ties")
_TWO: tuple[FormulaName, ...] = ("weighted_sum", "sigmoid", "inverse_sigmoid", "weighted_subtraction")
_TWO = (*_TWO, "slerp", "tensor_sum", "top_k_tensor_sum")


def takes(formula: FormulaName, count: int) -> str:
    """The fault of ``count`` models for a formula; empty if the number is right."""
    if formula in MANY:
        return "" if count else "takes one model or more"
    if formula == "none":
        return "" if count == 1 else "takes one model, a"
    if formula in _TWO:
        return "" if count == 2 else "takes two models, a and b"
    return "" if count in (2, 3) else "takes two models, a and b, and may take a third, c (without it, c is the base)"


# The range of α and β, for formulas that are undefined outside of it.
_RANGES: dict[FormulaName, dict[str, tuple[float, float]]] = {
    "inverse_sigmoid": {"alpha": (0, 1)},
    "tensor_sum": {"alpha": (0, 1), "beta": (0, 1)},
    "top_k_tensor_sum": {"alpha": (-1, 1)},
    "euclidean_add_difference": {"alpha": (0, 1)},
    "multiply_difference": {"alpha": (0, 1)},
    "distribution_crossover": {"alpha": (0, 1), "beta": (0, 1)},
    "ties_add_difference": {"beta": (0, 1)},
}
_NEAR = 1e-6  # with a smaller divisor, rounding errors of float32 are larger than the result


def domain_fault(
    formula: FormulaName, alphas: Sequence[float], betas: Sequence[float], weights: Iterable[float]
) -> str:
    """The fault of a formula's numbers, empty if there is none; ``alphas`` and ``betas``: one for each block."""
    for name, values in (("alpha", alphas), ("beta", betas)):
        low, high = _RANGES.get(formula, {}).get(name, (-float("inf"), float("inf")))
        outside = [value for value in values if not low <= value <= high]
        if outside:
            return f"takes `{name}` from {low} to {high}, not {outside[0]:g}"
    if formula == "weighted_subtraction":
        for α, β in zip(alphas, betas, strict=True):
            if abs(1 - α * β) < _NEAR:
                return f"divides by 1 - αβ, which is 0 where alpha is {α:g} and beta {β:g}"
    if formula == "ties" and _cancels(weights):
        return "divides by the sum of the `weights` that agree, which is 0 for some of these"
    return ""


def _cancels(weights: Iterable[float]) -> bool:
    """Whether the sum of some of the weights is 0; weights of 0 are ignored."""
    sums: set[float] = set()
    for weight in weights:
        if weight:
            sums |= {weight, *(known + weight for known in sums)}
    return any(abs(known) < _NEAR for known in sums)
