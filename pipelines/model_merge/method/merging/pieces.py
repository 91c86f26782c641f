"""The same tensor of several models, split into pieces: a formula gets one piece at a time.

Sums are computed in float64 over pieces of a fixed size, so they do not depend on the available memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce

import torch
from torch import Tensor

SIZE = 1 << 20  # values in a piece: 4 MB in float32
_HALF = 1 << 16


class Pieces:
    """Tensors of one shape as flat pieces, in float32 or wider."""

    def __init__(self, tensors: Sequence[Tensor], size: int = SIZE) -> None:
        self.flat = [tensor.reshape(-1) for tensor in tensors]
        self.count, self.models, self.size = self.flat[0].numel(), len(tensors), size
        self.dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)

    def __iter__(self) -> Iterator[list[Tensor]]:
        return (self.at(start) for start in range(0, self.count, self.size))

    def at(self, start: int) -> list[Tensor]:
        """The piece from value ``start`` on, of every model."""
        return [tensor[start : start + self.size].to(self.dtype) for tensor in self.flat]


def total(pieces: Pieces, sums: Callable[[list[Tensor]], Sequence[Tensor]]) -> list[float]:
    """The results of ``sums`` for each piece, added up in float64."""
    sums_of_pieces = []
    for piece in pieces:
        sums_of_pieces.append(list(map(float, sums([part.double() for part in piece]))))
    return [sum(column) for column in zip(*sums_of_pieces, strict=True)]


def kth_smallest(pieces: Pieces, value: Callable[[list[Tensor]], Tensor], k: int) -> float:
    """The k-th smallest of |value|, exact in float32: first its upper 16 bits are found, then the lower ones.

    Non-negative floats have the same order as their bits, so two histograms of 2¹⁶ bins replace a sort.
    """

    def bits() -> Iterator[Tensor]:
        return (value(piece).abs().float().view(torch.int32) for piece in pieces)

    upper, k = _place(((part >> 16) for part in bits()), k)
    lower, _ = _place(((part & (_HALF - 1))[(part >> 16) == upper] for part in bits()), k)
    return float(torch.tensor([upper << 16 | lower], dtype=torch.int32).view(torch.float32))


def _place(keys: Iterator[Tensor], k: int) -> tuple[int, int]:
    """The key of the k-th smallest value, and its rank among the values with this key."""
    counts = torch.zeros(_HALF, dtype=torch.int64)
    for part in keys:
        counts += torch.bincount(part, minlength=_HALF)
    below = counts.cumsum(0)
    place = int(torch.searchsorted(below, k))
    return place, k - (int(below[place - 1]) if place else 0)
