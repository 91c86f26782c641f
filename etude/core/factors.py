"""The factors of a LoRA or a related method among tensors in the common form, and their rank."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from etude.core.errors import FormatError
from etude.core.weights import LARGEST, nan_is_allowed

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
_FACTOR = re.compile(r"\.(lora_(?:A|B|mid)\.weight|(?:hada|lokr|glora|oft|ia3)_\w+|dora_scale|diff|diff_b)$")
RANKED = ("lora_A.weight", "hada_w1_b", "lokr_w2_b", "lokr_w1_b", "glora_a2")  # their first size is the rank
MULTIPLIED = ("lora_", "hada_", "lokr_", "glora_a", "glora_b")  # how the names of factors that are multiplied begin


def by_layer(tensors: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """The factors of each ``<part>.<module>``: tensors, or their shapes."""
    layers: dict[str, dict[str, T]] = defaultdict(dict)
    for name, tensor in tensors.items():
        if match := _FACTOR.search(name):
            layers[name[: match.start()]][match[1]] = tensor
    return dict(layers)


def rank_of(factors: Mapping[str, Tensor]) -> int | None:
    """The rank r of a layer's factors; None if there is none."""
    return next((len(factors[name]) for name in RANKED if name in factors), None)


def refuse_overflow(path: Path | str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Raise FormatError for a layer whose factors are finite, but so large that their product may not be.

    Nothing is multiplied: the Frobenius norm of a product is at most the product of the norms. If the change
    also depends on W or on a rotation, `etude.diffusion.factors.change` checks the result.
    """
    if nan_is_allowed():
        return
    alphas = facts.get("alphas", {})
    for layer, factors in by_layer(tensors).items():
        scale = abs(float(alphas.get(layer, facts["alpha"]))) / (rank_of(factors) or 1)
        for start in MULTIPLIED:
            norms = [float(tensor.double().norm()) for name, tensor in factors.items() if name.startswith(start)]
            if not max(scale, 1) * math.prod(norms) <= LARGEST:
                fault = f"has factors of `{layer}` that are so large that the change of the weight is not finite"
                raise FormatError(path, fault, "fetch or make it again")
