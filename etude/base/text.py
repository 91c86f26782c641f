"""From prompts to the UNet's text conditioning: tokens, then the states of one or several text encoders."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from etude.base.base import Base
from etude.base.conditioning import Conditioning
from etude.base.waiting import present
from etude.core.errors import BaseError, EtudeWarning
from etude.core.families import FAMILIES
from etude.core.spelling import find_words


@dataclass(frozen=True)
class Tokens:
    """Tokenised prompts: ``ids`` int64 [B, 77] for each text encoder, and for each prompt the text that was cut off.

    Negative ids are rows of added words: -1 - r is row r, counted over all words of ``base.words``.
    """

    ids: tuple[Tensor, ...]
    cut: tuple[str, ...]

    def to(self, device: torch.device | str) -> Tokens:
        """A copy on another device, for tokens that are encoded again and again."""
        return Tokens(tuple(ids.to(device) for ids in self.ids), self.cut)


class PromptCutWarning(EtudeWarning):
    """A prompt has more tokens than the text encoder can read; its end was left out."""


def encode_prompts(base: Base, prompts: Sequence[str], clip_skip: int = 0) -> Conditioning:
    """Encode prompts; one that is too long is cut, with a PromptCutWarning. See `encode_tokens`.

    A base of image variations reads no prompts: its result is zeros [B, 1, d], which the picture replaces (`unclip`).
    """
    if base.unclip is not None and base.unclip.instead:
        return Conditioning(torch.zeros(len(prompts), 1, base.unclip.width, device=base.device, dtype=base.dtype))
    tokens = tokenise(base, prompts)
    for prompt, cut in zip(prompts, tokens.cut, strict=True):
        if cut:
            warnings.warn(f"prompt too long, left out {cut!r} of {prompt!r}", PromptCutWarning, stacklevel=2)
    return encode_tokens(base, tokens, clip_skip)


def tokenise(base: Base, prompts: Sequence[str]) -> Tokens:
    """Prompts as ids: start, at most 75 tokens, end, padding.

    An added word (`hooks.added_tokens`) is replaced by its rows if it occurs as a separate word, spelt as
    `etude.core.spelling` says. Rows of one word stay together: if not all of them fit, the prompt ends before the word.
    """
    _need_text(base)
    # each encoder has its own tokenizer: for those that pad with "!", a "!" in the text is padding too
    lengths = [encoder.config.max_position_embeddings for encoder in base.text_encoders]
    pairs = list(zip(base.tokenizers, lengths, strict=True))
    ids, longest = [], [""] * len(prompts)
    for tokenizer, length in pairs:
        fitted = [_fit(base, tokenizer, prompt, length) for prompt in prompts]
        rows = [row for row, _ in fitted]
        ids.append(torch.tensor(rows, dtype=torch.int64).reshape(len(prompts), length))
        for number, (_, cut) in enumerate(fitted):
            longest[number] = max(longest[number], cut, key=len)
    return Tokens(tuple(ids), tuple(longest))


def encode_tokens(base: Base, tokens: Tokens, clip_skip: int = 0) -> Conditioning:
    """The text encoders' states, in the base's precision; differentiable.

    The family defines which layer is read, and whether the final layer norm is applied; with ``clip_skip`` n, the n-th
    layer before that one is read (A1111's "Clip skip" is n + 1). The states of several encoders are concatenated.
    """
    _need_text(base)
    states: list[Tensor] = []
    pooled = None
    records = FAMILIES[base.family].text_encoders
    with present(base, "text"):
        for encoder, record, ids in zip(base.text_encoders, records, tokens.ids, strict=True):
            place = record.layer + clip_skip
            last = record.normed and place == 1  # this state is the encoder's normal output
            output = encoder(ids.to(base.device), output_hidden_states=not last)
            state = output.last_hidden_state if last else _layer(output.hidden_states, place)
            states.append(encoder.final_layer_norm(state) if record.normed and not last else state)
            pooled = output.text_embeds if record.pooled else pooled
    return Conditioning(states[0] if len(states) == 1 else torch.cat(states, dim=-1), pooled)


def _need_text(base: Base) -> None:
    if base.unclip is not None and base.unclip.instead:
        fault = "reads no texts: it is a base of image variations"
        raise BaseError(base.path, fault, "choose a base with a text encoder")
    if not base.text_encoders:
        raise BaseError(base.path, "was loaded without its text encoder", 'add "text" to the `parts` of load_base')


def _layer(states: Sequence[Tensor], from_end: int) -> Tensor:
    if from_end >= len(states):
        raise BaseError("clip_skip", f"skips all {len(states) - 1} layers of the text encoder", "lower it")
    return states[-from_end]


def _fit(base: Base, tokenizer: Any, prompt: str, length: int) -> tuple[list[int], str]:
    """The ids of a prompt, with start, end and padding, and the text that did not fit."""
    ids, cut = [tokenizer.bos_token_id], ""
    pieces = list(_pieces(base, prompt))
    for number, (text, rows) in enumerate(pieces):
        if rows:
            piece_ids, places = list(rows), [0] * len(rows)
        else:
            coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            piece_ids, places = coded["input_ids"], [place for place, _ in coded["offset_mapping"]]
        left = length - 1 - len(ids)
        if len(piece_ids) > left:
            ids += [] if rows else piece_ids[:left]
            rest = text if rows else text[places[left] :]
            cut = rest + "".join(text for text, _ in pieces[number + 1 :])
            break
        ids += piece_ids
    ids.append(tokenizer.eos_token_id)
    return ids + [tokenizer.pad_token_id] * (length - len(ids)), cut


def _pieces(base: Base, prompt: str) -> Iterator[tuple[str, range]]:
    """The prompt's pieces in order, each with the ids of its rows if it is an added word."""
    rows: list[range] = []
    count = 0
    for vectors in base.words.values():
        rows.append(range(-1 - count, -1 - count - len(vectors[0]), -1))
        count += len(vectors[0])
    for piece, number in find_words(list(base.words), prompt):
        yield piece, range(0) if number is None else rows[number]
