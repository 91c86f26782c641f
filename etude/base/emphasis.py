r"""Weights in brackets by A1111's rule: (x) is 1.1, [x] is 1/1.1, (x:1.3) is 1.3; brackets in brackets multiply.

After a backslash, a bracket or backslash is an ordinary character; before any other character, a backslash is dropped.
A bracket that is never closed counts to the end; one that was never opened is an ordinary character. One thing differs:
in brackets, A1111 takes BREAK for a word with a negative weight; here it is a break there too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from etude.base.settings import Text
from etude.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

FACTORS = {"(": 1.1, "[": 1 / 1.1}
_MARK = re.compile(
    r"\\(?P<char>[\[\]()\\])?|(?P<open>[\[(])|(?P<close>(?::(?P<factor>[+-]?[.\d]+))?\)|\])|[^\[\]\\():]+|:"
)
EDITING = re.compile(r"\[[^\[\]]*(?::\s*[\d.]+\s*|\|[^\[\]]*)\]|\bAND\b")  # A1111's syntax that does more than weigh
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


class Piece(NamedTuple):
    """A part of a prompt; ``text`` is None for a BREAK."""

    text: str | None
    weight: float


def weigh(prompt: str, *, breaks: bool) -> list[Piece]:
    """The pieces of a prompt; adjacent ones differ in weight. ``breaks``: each word BREAK is a separate piece.

    Raises InputError for a weight that is no number.
    """
    pieces: list[Piece] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # numbers of the pieces before which brackets were opened

    def close(bracket: str, factor: float) -> None:
        first = opened[bracket].pop()
        pieces[first:] = [Piece(text, weight * factor) for text, weight in pieces[first:]]

    for mark in _MARK.finditer(prompt):
        bracket = "(" if mark[0].endswith(")") else "["
        if mark["open"]:
            opened[mark[0]].append(len(pieces))
        elif mark["close"] and opened[bracket]:
            close(bracket, _number(mark["factor"], prompt) if mark["factor"] else FACTORS[bracket])
        elif mark[0].startswith("\\"):
            pieces.append(Piece(mark["char"] or "", 1.0))
        else:
            parts = _BREAK.split(mark[0]) if breaks else [mark[0]]
            for number, part in enumerate(parts):
                pieces += [Piece(None, 1.0)] * (number > 0) + [Piece(part, 1.0)]
    for bracket, places in opened.items():
        while places:
            close(bracket, FACTORS[bracket])
    return _merged(pieces)


def weighted(states: Tensor, weights: Tensor, kind: str) -> Tensor:
    """The states [N, L, d] of N chunks times the weights [N, L] of their tokens; a1111: each chunk's mean is restored.

    With kohya's weights, and A1111's "No norm", the mean is not restored.
    """
    changed = states * weights[..., None].to(states)
    if kind != "a1111":
        return changed
    restored = changed * (states.mean(dim=(1, 2), keepdim=True) / changed.mean(dim=(1, 2), keepdim=True))
    return restored.where((weights != 1).any(dim=1)[:, None, None].to(states.device), states)


def pieces_of(prompt: str, reading: Text) -> list[Piece]:
    """The pieces of a prompt as ``reading`` says."""
    if reading.emphasis == "none":
        return [Piece(prompt, 1.0)]
    return weigh(prompt, breaks=reading.rule == "a1111")


def _number(text: str, prompt: str) -> float:
    try:
        return float(text)
    except ValueError:
        action = "write a number such as 1.2, or a backslash before the bracket"
        raise InputError(f"the text `{prompt}`", f"has the weight `{text}`, which is no number", action) from None


def _merged(pieces: list[Piece]) -> list[Piece]:
    merged: list[Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        if last and piece.text is not None and last.text is not None and last.weight == piece.weight:
            merged[-1] = Piece(last.text + piece.text, piece.weight)
        else:
            merged.append(piece)
    return merged
