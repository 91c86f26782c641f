"""Git re-basin (Ainsworth et al., 2022, arXiv:2209.04836): reorder b's hidden units to match a's before merging.

Two trainings may learn the same units in another order, and the mean of different units is useless. These units can be
permuted without changing the network's function:

* the hidden units of a feed-forward network
* the channels inside a residual block, within its norm's groups, and the groups as a whole
* the heads of an attention layer, and within a head the dimensions of query and key, and of value and output

Each of these is between two layers of the same module, so each best order is found independently. No iteration is
needed, as it would be for residual streams (they cannot be permuted in a UNet, because its norms have other groups).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Weights = Mapping[str, Tensor]


class Place(NamedTuple):
    """The dimension of a tensor that contains units: the first, the second, or both halves of the first."""

    tensor: str
    where: str  # rows, columns or halves
    order: int  # index of the order that applies


_KINDS = (
    (r"(.*\.ff\.net)\.(?:0\.proj|2)\.", {"0.proj": ("halves", 0), "2": ("columns", 0)}),
    (r"(.*\.mlp)\.fc[12]\.", {"fc1": ("rows", 0), "fc2": ("columns", 0)}),
    (
        r"(.*\.resnets\.\d+)\.(?:conv[12]|time_emb_proj|norm2)\.",
        {"conv1": ("rows", 0), "time_emb_proj": ("rows", 0), "norm2": ("rows", 0), "conv2": ("columns", 0)},
    ),
    (
        r"(.*\.attn[12])\.to_(?:[qkv]|out\.0)\.",
        {"to_q": ("rows", 0), "to_k": ("rows", 0), "to_v": ("rows", 1), "to_out.0": ("columns", 1)},
    ),
    (
        r"(.*\.self_attn)\.(?:[qkv]|out)_proj\.",
        {"q_proj": ("rows", 0), "k_proj": ("rows", 0), "v_proj": ("rows", 1), "out_proj": ("columns", 1)},
    ),
)
_PATTERNS = tuple((re.compile(pattern), layers) for pattern, layers in _KINDS)


class Rebased(Mapping[str, Tensor]):
    """b with its hidden units in the order that fits a best.

    ``blocks`` returns, for the stem of a layer's name, the number of blocks of units that can only be moved as a whole:
    heads of an attention layer, groups of a residual block, 1 for a feed-forward network.
    """

    def __init__(self, a: Weights, b: Weights, blocks: Callable[[str], int]) -> None:
        self.a, self.b, self.blocks = a, b, blocks
        self._orders = cache(self._match)

    def __iter__(self) -> Iterator[str]:
        return iter(self.b)

    def __len__(self) -> int:
        return len(self.b)

    def __getitem__(self, name: str) -> Tensor:
        stem_and_kind = _stem(name)
        tensor = self.b[name]
        if not stem_and_kind:
            return tensor
        place = next((p for p in self._places(*stem_and_kind) if p.tensor == name), None)
        return _ordered(tensor, place.where, self._orders(*stem_and_kind)[place.order]) if place else tensor

    def _places(self, stem: str, kind: int) -> list[Place]:
        """Every tensor that contains these units. A bias has no columns, so that of the second layer is unchanged."""
        layers = _PATTERNS[kind][1]
        named = [(f"{stem}.{layer}.{end}", *layers[layer]) for layer in layers for end in ("weight", "bias")]
        return [Place(n, w, o) for n, w, o in named if n in self.b and not (w == "columns" and n.endswith("bias"))]

    def _match(self, stem: str, kind: int) -> list[Tensor]:
        """The orders of one layer's units."""
        likeness: dict[int, Tensor] = {}
        for place in self._places(stem, kind):
            ours, theirs = (_units(w[place.tensor].float(), place.where) for w in (self.a, self.b))
            likeness[place.order] = likeness.get(place.order, torch.zeros(())) + ours @ theirs.T
        return match([likeness[order].numpy() for order in sorted(likeness)], self.blocks(stem))


def _stem(name: str) -> tuple[str, int] | None:
    """Stem and kind of a layer whose units can be permuted, otherwise None; the VAE is never changed."""
    if name.startswith("vae."):
        return None
    for kind, (pattern, _) in enumerate(_PATTERNS):
        if match := pattern.match(name):
            return match[1], kind
    return None


def _units(tensor: Tensor, where: str) -> Tensor:
    """``tensor`` as a matrix with a row for each unit."""
    if where == "halves":
        return torch.cat([half.reshape(len(half), -1) for half in tensor.chunk(2)], dim=1)
    tensor = tensor if where == "rows" else tensor.transpose(0, 1)
    return tensor.reshape(len(tensor), -1)


def _ordered(tensor: Tensor, where: str, order: Tensor) -> Tensor:
    if where == "columns":
        return tensor[:, order]
    return torch.cat([half[order] for half in tensor.chunk(2)]) if where == "halves" else tensor[order]


def match(likeness: list[NDArray[Any]], blocks: int) -> list[Tensor]:
    """The order of b's units for each matrix in ``likeness`` [units of a, units of b], so that the total is largest.

    Blocks of units stay together, and their order is the same for all matrices; within a block, each has its own order.
    """
    from scipy.optimize import linear_sum_assignment

    size = len(likeness[0]) // blocks
    inner = np.zeros((len(likeness), blocks, blocks, size), dtype=np.int64)
    gains = np.zeros((blocks, blocks))
    for number, values in enumerate(likeness):
        for i, j in np.ndindex(blocks, blocks):
            part = values[i * size : (i + 1) * size, j * size : (j + 1) * size]
            rows, inner[number, i, j] = linear_sum_assignment(part, maximize=True)
            gains[i, j] += part[rows, inner[number, i, j]].sum()
    outer = linear_sum_assignment(gains, maximize=True)[1]
    orders = []
    for number in range(len(likeness)):
        order = [inner[number, i, j] + j * size for i, j in enumerate(outer)]
        orders.append(torch.from_numpy(np.concatenate(order)))
    return orders


def block_counter(unet: Mapping[str, Any], texts: Mapping[str, Mapping[str, Any]]) -> Callable[[str], int]:
    """``blocks`` for `Rebased` from the configurations of a UNet and, by part, of text encoders.

    diffusers' ``attention_head_dim`` of these UNets is the number of heads, for all levels or for each level.
    """
    heads = unet.get("num_attention_heads") or unet.get("attention_head_dim", 8)
    levels = len(unet["block_out_channels"])
    down = list(heads) if isinstance(heads, (list, tuple)) else [heads] * levels

    def blocks(stem: str) -> int:
        if stem.endswith(".self_attn"):
            return int(texts[stem.partition(".")[0]]["num_attention_heads"])
        if ".resnets." in stem:
            return int(unet.get("norm_num_groups") or 32)
        if not stem.endswith((".attn1", ".attn2")):
            return 1
        level = re.match(r"unet\.(down|up)_blocks\.(\d+)\.", stem)
        if not level:
            return int(down[-1])
        return int(down[int(level[2])] if level[1] == "down" else down[levels - 1 - int(level[2])])

    return blocks
