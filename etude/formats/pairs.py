"""LoRA as pairs of matrices by module: the form that all LoRA formats are converted to and from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etude.core.errors import FormatError
from etude.formats.resembling import described


@dataclass(frozen=True)
class Pair:
    """ΔW = alpha / r · up · down; down [r, in] and up [out, r] (convolutions: [r, in, k, k] and [out, r, 1, 1])."""

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """r, the width between the two matrices."""
        return self.down.shape[0]


def scaled(tensor: Tensor, number: float) -> Tensor:
    """``tensor`` times a number: in its own precision if that is exact, as with a power of two, else in float32."""
    wide = tensor.to(torch.promote_types(tensor.dtype, torch.float32)) * number
    return narrow if torch.equal((narrow := wide.to(tensor.dtype)).to(wide.dtype), wide) else wide


def is_plain(names: Iterable[str]) -> bool:
    """Whether there are pairs and nothing else: no LoHa, LoKr, DoRA, core of a convolution or whole difference."""
    return all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in names)


def split(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> dict[str, Pair]:
    """Pairs by ``<part>.<module>`` from the common form; ``facts`` give ``alpha`` and exceptions in ``alphas``.

    Raises FormatError for factors of another kind.
    """
    if strange := sorted(name for name in tensors if not is_plain([name])):
        fault = f"is no plain LoRA: it has {strange[0]}"
        raise FormatError(str(facts.get("name", "LoRA")), fault, "write it as kohya_lora, which holds every kind")
    alphas: Mapping[str, float] = facts.get("alphas", {})
    names = sorted(name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight"))
    pairs = {}
    for name in names:
        down, up = tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]
        pairs[name] = Pair(down, up, float(alphas.get(name, facts["alpha"])))
    return pairs


def join(pairs: Mapping[str, Pair]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The common form, and the facts ``rank``, ``alpha`` (the most frequent ones) and ``alphas`` (which differ)."""
    tensors = {}
    for name, pair in pairs.items():
        tensors[f"{name}.lora_A.weight"] = pair.down
        tensors[f"{name}.lora_B.weight"] = pair.up
    return tensors, ranks_and_alphas({name: (pair.rank, pair.alpha) for name, pair in pairs.items()})


def ranks_and_alphas(known: Mapping[str, tuple[int, float]]) -> dict[str, Any]:
    """The facts ``rank``, ``alpha`` and ``alphas`` from (rank, alpha) by layer."""
    alpha = Counter(alpha for _, alpha in known.values()).most_common(1)[0][0]
    facts = {"rank": Counter(rank for rank, _ in known.values()).most_common(1)[0][0], "alpha": alpha}
    others = {name: other for name, (_, other) in sorted(known.items()) if other != alpha}
    return facts | ({"alphas": others} if others else {})


def unknown(path: Path | str, keys: Iterable[str]) -> FormatError:
    """The error for keys of an unknown kind of LoRA."""
    action = "convert it to kohya's LoRA with the program that made it"
    return FormatError(path, f"holds what belongs to no LoRA that Étude knows: {described(list(keys))}", action)
