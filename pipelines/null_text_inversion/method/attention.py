"""Editing by prompt: a picture keeps its shapes if attention is copied (Hertz et al., 2022, arXiv:2208.01626).

A picture is drawn twice in one batch, with its own text and with the new text. In the first steps, the new picture uses
the attention of the old one: cross-attention of words is replaced (word for word), refined (new words are added) or
re-weighted, and self-attention on small maps is copied.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from etude.base.base import Base
from etude.base.text import tokenise

SELF_TOKENS = 32**2  # null-text's code copies self-attention on maps of at most 32 × 32 (Prompt-to-Prompt's: 16 × 16)
_WEIGHTED = re.compile(r"\(([^():]+):(-?\d+(?:\.\d+)?)\)")


@dataclass(frozen=True)
class Edit:
    """The edit of attention: w · (α · (A M) + (1 - α) · A'), where A [·, 77] is that of the old text, A' of the new.

    ``mapping`` M [77, 77]: old place → new place; ``kept`` α [77]: 1 where A is copied; ``weights`` w [77].
    """

    mapping: Tensor
    kept: Tensor
    weights: Tensor


def read_weights(prompt: str) -> tuple[str, list[tuple[int, int, float]]]:
    """``a (red:2) cat`` as plain text, and (start, end, weight) of each weighted piece."""
    plain, marked, last = "", [], 0
    for match in _WEIGHTED.finditer(prompt):
        plain += prompt[last : match.start()]
        marked.append((len(plain), len(plain) + len(match[1]), float(match[2])))
        plain += match[1]
        last = match.end()
    return plain + prompt[last:], marked


def edit(base: Base, old: str, new: str, number: int = 0) -> Edit:
    """The edit from one text to another, in the tokens of text encoder ``number``.

    If both texts have the same number of words, words are replaced one by one; otherwise the attention of their common
    words is copied. ``(word:2)`` in the new text re-weights a word.
    """
    plain, marked = read_weights(new)
    length = base.text_encoders[number].config.max_position_embeddings
    sources, targets = _words(base, old, number), _words(base, plain, number)
    replaced = len(sources) == len(targets)
    pairs = list(zip(sources, targets, strict=True)) if replaced else _common(base, old, plain, number)
    mapping, kept = torch.zeros(length, length), torch.ones(length)
    ends = [1 + sum(map(len, words)) for words in (sources, targets)]
    for source, target in [([0], [0]), *pairs]:
        for place, t in enumerate(target):
            if len(source) == len(target):
                mapping[source[place], t] = 1
            else:
                mapping[source, t] = 1 / len(target)  # the old word's attention is divided among the new tokens
    for offset in range(length - max(ends)):  # the end token and the padding after it
        mapping[ends[0] + offset, ends[1] + offset] = 1
    kept[mapping.sum(dim=0) == 0] = 0
    weights = torch.ones(length)
    for start, end, weight in marked:
        weights[_places(base, plain, start, end, number)] = weight
    return Edit(mapping, kept, weights)


def _words(base: Base, text: str, number: int) -> list[list[int]]:
    """The places of each word's tokens in a tokenised text."""
    return [_places(base, text, m.start(), m.end(), number) for m in re.finditer(r"\S+", text)]


def _places(base: Base, text: str, start: int, end: int, number: int) -> list[int]:
    """The places of the tokens of ``text[start:end]``, which are whole words; without tokens that were cut off."""
    before, upto = (len(_ids(base, piece, number)) for piece in (text[:start], text[:end]))
    return list(range(1 + before, 1 + upto))


def _ids(base: Base, text: str, number: int) -> list[int]:
    """The tokens of a text, without start, end and padding."""
    row = tokenise(base, [text]).ids[number][0].tolist()
    return row[1 : row.index(base.tokenizers[number].eos_token_id, 1)]


def _common(base: Base, old: str, new: str, number: int) -> list[tuple[list[int], list[int]]]:
    """Places of the longest common subsequence of tokens (Needleman-Wunsch with free gaps)."""
    a, b = _ids(base, old, number), _ids(base, new, number)
    best = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            best[i + 1][j + 1] = best[i][j] + 1 if x == y else max(best[i][j + 1], best[i + 1][j])
    pairs, i, j = [], len(a), len(b)
    while i and j:
        if a[i - 1] == b[j - 1]:
            pairs.append(([i], [j]))  # places count the start token
            i, j = i - 1, j - 1
        elif best[i - 1][j] >= best[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return pairs[::-1]


class Control:
    """Copies attention in the present step. The batch has the rows [empty for old, empty for new, old, new], B each."""

    def __init__(self, edits: Sequence[Edit], device: torch.device) -> None:
        self.mapping = torch.stack([each.mapping for each in edits]).to(device)
        self.kept = torch.stack([each.kept for each in edits]).to(device)
        self.weights = torch.stack([each.weights for each in edits]).to(device)
        self.cross = self.self_ = False

    def __call__(self, probabilities: Tensor, is_cross: bool) -> Tensor:
        """``probabilities`` [4B, heads, queries, keys] with the last quarter changed."""
        if not (self.cross if is_cross else self.self_ and probabilities.shape[2] <= SELF_TOKENS):
            return probabilities
        *rest, old, new = probabilities.chunk(4)
        if is_cross:
            mapping, kept, weights = (x.to(old) for x in (self.mapping, self.kept, self.weights))
            taken = torch.einsum("bhqs,bst->bhqt", old, mapping)
            kept = kept[:, None, None]
            new = (kept * taken + (1 - kept) * new) * weights[:, None, None]
        else:
            new = old
        return torch.cat([*rest, old, new])


class _Processor:
    """Attention that computes its probabilities explicitly, so that they can be changed."""

    def __init__(self, control: Control) -> None:
        self.control = control

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_rest: Any
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (q, k, v))
        if attn.upcast_attention:  # SD 2.x: scores overflow in half precision
            q, k = q.float(), k.float()
        probabilities = (q @ k.transpose(-1, -2) * attn.scale).softmax(dim=-1).to(v.dtype)
        probabilities = self.control(probabilities, encoder_hidden_states is not None)
        mixed = (probabilities @ v).transpose(1, 2).flatten(2)
        projection, dropout = attn.to_out
        out: Tensor = dropout(projection(mixed))
        return out


@contextmanager
def controlled(unet: Any, control: Control) -> Iterator[None]:
    """Use ``control`` in every attention layer of the UNet; on exit, the usual processors are restored."""
    before = dict(unet.attn_processors)
    try:
        unet.set_attn_processor(dict.fromkeys(before, _Processor(control)))
        yield
    finally:
        unet.set_attn_processor(dict(before))
