"""LoRA as pairs of matrices by module: what every LoRA format is turned into and made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from etude.core.errors import FormatError


@dataclass(frozen=True)
class Pair:
    """ΔW = alpha / r · up · down; down [r, in] and up [out, r] (convolutions: [r, in, k, k] and [out, r, 1, 1])."""

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """r, the width between the two."""
        return self.down.shape[0]


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
    return {
        name: Pair(
            tensors[f"{name}.lora_A.weight"],
            tensors[f"{name}.lora_B.weight"],
            float(alphas.get(name, facts["alpha"])),
        )
        for name in names
    }


def join(pairs: Mapping[str, Pair]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The common form, and the facts ``rank``, ``alpha`` (the commonest of each) and ``alphas`` (where it differs)."""
    tensors = {}
    for name, pair in pairs.items():
        tensors[f"{name}.lora_A.weight"] = pair.down
        tensors[f"{name}.lora_B.weight"] = pair.up
    return tensors, ranks_and_alphas({name: (pair.rank, pair.alpha) for name, pair in pairs.items()})


def ranks_and_alphas(told: Mapping[str, tuple[int, float]]) -> dict[str, Any]:
    """The facts ``rank``, ``alpha`` and ``alphas`` from (rank, alpha) by layer."""
    alpha = Counter(alpha for _, alpha in told.values()).most_common(1)[0][0]
    facts = {"rank": Counter(rank for rank, _ in told.values()).most_common(1)[0][0], "alpha": alpha}
    others = {name: other for name, (_, other) in sorted(told.items()) if other != alpha}
    return facts | ({"alphas": others} if others else {})


def collect(
    path: Path | str, found: Mapping[str, Mapping[str, Tensor]], alphas: Mapping[str, float]
) -> dict[str, Pair]:
    """Pairs from ``found[module]["down" | "up" | "alpha"]``; a missing alpha is ``alphas[module]``, else the rank.

    Raises FormatError when a half is missing or the halves do not fit.
    """
    pairs = {}
    for name, halves in sorted(found.items()):
        missing = [half for half in ("down", "up") if half not in halves]
        if missing:
            raise FormatError(path, f"`{name}` has no {' and no '.join(missing)} weight", "fetch the file again")
        down, up = halves["down"], halves["up"]
        if down.ndim < 2 or up.ndim < 2 or down.shape[0] != up.shape[1]:
            fault = f"`{name}` has halves {list(down.shape)} and {list(up.shape)}, which do not fit"
            raise FormatError(path, fault, "fetch the file again")
        alpha = float(halves["alpha"]) if "alpha" in halves else alphas.get(name, float(down.shape[0]))
        pairs[name] = Pair(down, up, alpha)
    if not pairs:
        raise FormatError(path, "holds no LoRA", "name another file")
    return pairs


def unknown(path: Path | str, keys: Iterable[str]) -> FormatError:
    """The error for keys that are of no kind of LoRA known."""
    keys = sorted(keys)
    some = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
    return FormatError(
        path, f"holds keys of no kind of LoRA that is known: {some}", "convert it with the program that made it"
    )
