"""The two formulas that sort whole tensors (s1dlx/meh), with little memory: sorting in place, orders in 32 bits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .pieces import SIZE, Pieces, kth_smallest


def top_k_tensor_sum(a: Tensor, b: Tensor, α: float, β: float) -> Tensor:
    """a's values in the order of b's, if the size of a value is in the region [β, β+α); otherwise a.

    The size of a value is the rank of its absolute value, as a share of all; a region beyond 1 continues at 0.
    """
    start, end, outside = region(α, β, a.numel())
    low, high = (-1.0 if k <= 0 else kth_smallest(Pieces([a]), itemgetter(0), k) for k in (start, end))
    order, values, result = order_of(b), _flat(a), _flat(a)
    values.sort()
    for part in _slices(values.size):
        size = np.abs(values[part])
        chosen = ((low < size) & (size <= high)) != outside
        result[order[part][chosen]] = values[part][chosen]
    return torch.from_numpy(result).view_as(a)


def distribution_crossover(a: Tensor, b: Tensor, c: Tensor, α: float, β: float) -> Tensor:
    """a and b are sorted by c's values and mixed in the frequency domain: low frequencies from a, high ones from b.

    The crossover is at the share α of the frequencies, and is β wide.
    """
    order = order_of(c)
    low, high = torch.fft.rfft(_gathered(a, order)), torch.fft.rfft(_gathered(b, order))
    for part in _slices(low.numel()):
        share = torch.arange(part.start, min(part.stop, low.numel()), dtype=torch.float64) / low.numel()
        share = ((share - α) / β + 0.5).clamp(0, 1) if β > 1e-10 else (share >= α).to(share.dtype)
        low[part] += share.to(low.real.dtype) * (high[part] - low[part])
    del high
    mixed = torch.fft.irfft(low, a.numel()).numpy()
    del low
    result = np.empty_like(mixed)
    for part in _slices(mixed.size):
        result[order[part]] = mixed[part]
    return torch.from_numpy(result).view_as(a)


def _gathered(tensor: Tensor, order: NDArray[np.uint32]) -> Tensor:
    """The values in an order [n], in float32 or wider."""
    values = tensor.reshape(-1)
    gathered = torch.empty(len(order), dtype=torch.promote_types(tensor.dtype, torch.float32))
    for part in _slices(len(order)):
        gathered[part] = values[torch.from_numpy(order[part].astype(np.int64))].to(gathered.dtype)
    return gathered


def order_of(tensor: Tensor) -> NDArray[np.uint32]:
    """Places of the values from the smallest to the largest [n]; equal values stay in their order.

    One sort is enough: each 64-bit word has a float's bits, changed to sort like the values, above the value's place.
    """
    flat = tensor.reshape(-1)
    words = np.empty(flat.numel(), dtype=np.uint64)
    for part in _slices(words.size):
        bits = (flat[part].float() + 0.0).numpy().view(np.uint32)  # -0 and 0 are equal
        bits ^= np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))
        places = np.arange(part.start, part.start + bits.size, dtype=np.uint64)
        words[part] = bits.astype(np.uint64) << np.uint64(32) | places
    words.sort()
    return words.astype(np.uint32)  # the lower half


def _flat(tensor: Tensor) -> NDArray[Any]:
    """A copy of the values, in float32 or wider."""
    return np.array(tensor.reshape(-1).to(torch.promote_types(tensor.dtype, torch.float32)).numpy())


def _slices(count: int) -> Iterator[slice]:
    return (slice(start, start + SIZE) for start in range(0, count, SIZE))


def region(width: float, offset: float, count: int) -> tuple[int, int, bool]:
    """First and last rank of [offset, offset + width), and whether the region is outside of these ranks."""
    if width < 0:
        offset, width = offset + width, -width
    width = min(width, 1.0)
    if offset < 0:
        offset = 1 + offset - int(offset)
    offset = math.fmod(offset, 1.0)
    if width + offset <= 1:
        return round(offset * count), round((width + offset) * count), False
    return round((width + offset - 1) * count), round(offset * count), True
