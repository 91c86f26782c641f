"""The factors of a LoRA or a related method among tensors in the common form, and their rank."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_FACTOR = re.compile(r"\.(lora_(?:A|B|mid)\.weight|(?:hada|lokr|glora|oft|ia3)_\w+|dora_scale|diff|diff_b)$")
RANKED = ("lora_A.weight", "hada_w1_b", "lokr_w2_b", "lokr_w1_b", "glora_a2")  # their first size is the rank


def by_layer(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The factors of each ``<part>.<module>``."""
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        if match := _FACTOR.search(name):
            layers[name[: match.start()]][match[1]] = tensor
    return dict(layers)


def rank_of(factors: Mapping[str, Tensor]) -> int | None:
    """The rank r of a layer's factors; None if there is none."""
    return next((len(factors[name]) for name in RANKED if name in factors), None)
