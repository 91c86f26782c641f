"""LoRA in merges: as a model, and as the result (several LoRAs in one, or the difference of whole models by an SVD).

Extraction is kohya's (``extract_lora_from_models``): the singular vectors of the largest singular values, with the
largest numbers clamped. ``concatenated`` is exact: its rank is the sum of the ranks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from etude.core.factors import by_layer
from etude.core.families import learned_parts
from etude.diffusion.factors import BIAS, bias_change, change
from etude.formats.pairs import Pair
from etude.formats.svd import truncated

from .formulas import Numbers

_UNET = re.compile(
    r".*(attn[12]\.to_([qkv]|out\.0)|ff\.net\.(0\.proj|2)|proj_in|proj_out|conv1|conv2|conv_shortcut|"
    r"time_emb_proj|(down|up)samplers\.0\.conv)\.weight"
)
_TEXT = re.compile(r".*(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])\.weight")


def is_layer(name: str) -> bool:
    """Whether LoRA files in kohya's format can contain a weight: not those of embeddings, norms and biases."""
    part, _, weight = name.partition(".")
    pattern = _UNET if part == "unet" else _TEXT
    return part in learned_parts() and bool(pattern.fullmatch(weight))


class Fused(Mapping[str, Tensor]):
    """The weights that a LoRA changes, by their names: W', in float32.

    ``tensors`` and ``facts`` are those of a LoRA or one of its variants, in the common form; ``below``: the weights W.
    """

    def __init__(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], below: Mapping[str, Tensor]) -> None:
        self.layers, self.below = by_layer(tensors), below
        self.alpha, self.alphas = facts["alpha"], facts.get("alphas", {})
        self.names = [f"{layer}.weight" for layer, factors in self.layers.items() if set(factors) != {BIAS}]
        self.names += [f"{layer}.bias" for layer, factors in self.layers.items() if BIAS in factors]

    def __getitem__(self, name: str) -> Tensor:
        layer, _, kind = name.rpartition(".")
        own: Tensor = self.below[name].float()
        if kind == "bias":
            return own + bias_change(layer, self.layers[layer], own)
        return own + change(layer, self.layers[layer], self.alphas.get(layer, self.alpha), own)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def extracted(difference: Tensor, rank: int, clamp: float) -> Pair:
    """The pair of rank r nearest to ``difference`` [out, in(, k, k)], α = r.

    Values above the quantile ``clamp`` of both matrices are clamped to it (1: no clamping). This limits outliers of a
    model that was trained long, but the pair is then an approximation even at full rank.
    """
    flat = difference.flatten(1)
    r = min(rank, *flat.shape)
    u, s, vh = truncated(flat, r)
    up, down = (u * s).float(), vh.float()
    if clamp < 1:
        values = torch.cat([up.flatten(), down.flatten()])
        limit = float(values.sort().values[max(int(clamp * values.numel()) - 1, 0)])
        up, down = up.clamp(-limit, limit), down.clamp(-limit, limit)
    up = up.reshape(len(flat), r, *([1] * (difference.ndim - 2)))
    return Pair(down.reshape(r, *difference.shape[1:]).contiguous(), up.contiguous(), float(r))


def concatenated(loras: Sequence[Mapping[str, Pair]], numbers: Mapping[str, Numbers]) -> dict[str, Pair]:
    """α · Σ weight · LoRA with the ``numbers`` of each weight's name, exact: each layer's rank is the sum of theirs."""
    pairs = {}
    for name in sorted({name for lora in loras for name in lora if f"{name}.weight" in numbers}):
        own = numbers[f"{name}.weight"]
        weighted_pairs = [(lora[name], weight) for lora, weight in zip(loras, own.weights, strict=True) if name in lora]
        down = torch.cat([pair.down.float() for pair, _ in weighted_pairs])
        up = torch.cat([_scaled(pair, own.alpha, weight) for pair, weight in weighted_pairs], dim=1)
        pairs[name] = Pair(down, up, float(len(down)))
    return pairs


def _scaled(pair: Pair, α: float, weight: float | Tensor) -> Tensor:
    """The up matrix times all factors of the pair; ``weight`` may be a number for each row."""
    up = pair.up.float() * (α * pair.alpha / pair.rank)
    return up * (weight.view(-1, *[1] * (up.ndim - 1)) if isinstance(weight, Tensor) else weight)
