"""Long texts in chunks of 75 tokens, each with a start and an end: where a text is split, and how states are joined.

A1111 splits after a comma if it is among a chunk's last 20 tokens, and at the word BREAK; all states are concatenated,
77 a chunk. kohya fills every chunk, and leaves out the states of the starts and ends between chunks: 75 a chunk, and 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

BACKTRACK = 20  # A1111's setting "Prompt word wrap length limit", its default


class Item(NamedTuple):
    """What stays together: a token, or the rows of an added word. Without ``ids`` it is a BREAK."""

    ids: tuple[int, ...]
    weight: float
    start: int  # where its text begins in the prompt


def split(items: Sequence[Item], size: int, comma: int | None) -> list[list[Item]]:
    """Chunks of at most ``size`` tokens. With the id of a ``comma``, a full chunk ends after its last comma if that
    is at most BACKTRACK tokens from the chunk's end.
    """
    chunks: list[list[Item]] = [[]]
    behind = 0  # number of items of the present chunk up to its last comma; 0: it has none
    for item in items:
        chunk = chunks[-1]
        if not item.ids:
            chunks.append([])
            behind = 0
            continue
        if item.ids == (comma,):
            behind = len(chunk) + 1
        elif behind and length(chunk) == size and length(chunk[behind - 1 :]) <= BACKTRACK:
            chunks[-1:] = [chunk[:behind], chunk[behind:]]
            behind = 0
        if length(chunks[-1]) + len(item.ids) > size:
            chunks.append([])
            behind = 0
        chunks[-1].append(item)
    return chunks if chunks[-1] or len(chunks) == 1 else chunks[:-1]


def length(chunk: Sequence[Item]) -> int:
    """The number of tokens of a chunk."""
    return sum(len(item.ids) for item in chunk)


def join(states: Tensor, rule: str) -> Tensor:
    """[B, n, 77, …] as [B, 77 n, …]; by kohya's rule as [B, 75 n + 2, …]: the first start, the tokens, the last end."""
    if rule == "a1111":
        return states.flatten(1, 2)
    tokens = states[:, :, 1:-1].flatten(1, 2)
    return torch.cat([states[:, 0, :1], tokens, states[:, -1, -1:]], dim=1)


def joined_length(chunks: int, rule: str, own: int = 77) -> int:
    """The number of states of a text with so many ``chunks`` of ``own`` tokens."""
    return chunks * own if rule == "a1111" else chunks * (own - 2) + 2
