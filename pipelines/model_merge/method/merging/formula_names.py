"""The names of the formulas in params.yaml, and the number of models for each."""

from __future__ import annotations

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
    return "" if count in (2, 3) else "takes two models, a and b, and may take a third, c (else the base is c)"
