"""LoRA as pairs of matrices by module: what every LoRA format is turned into and made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from etude.errors import FormatError

PARTS = ("unet", "text_encoder", "text_encoder_2")


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


def split(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> dict[str, Pair]:
    """Pairs by ``<part>.<module>`` from the common form; ``facts`` give ``alpha`` and exceptions in ``alphas``."""
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
    alpha = Counter(pair.alpha for pair in pairs.values()).most_common(1)[0][0]
    facts: dict[str, Any] = {
        "rank": Counter(pair.rank for pair in pairs.values()).most_common(1)[0][0],
        "alpha": alpha,
    }
    others = {name: pair.alpha for name, pair in sorted(pairs.items()) if pair.alpha != alpha}
    return tensors, facts | ({"alphas": others} if others else {})


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
    """The error for keys that are no plain LoRA: LoHa, LoKr, DoRA, CP-decomposed convolutions, other networks."""
    keys = sorted(keys)
    some = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
    return FormatError(path, f"holds keys that are no plain LoRA: {some}", "convert it with the program that made it")
