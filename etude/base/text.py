"""From prompts to the UNet's text conditioning: tokens, then the states of one or several text encoders."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from etude.base.base import Base
from etude.base.chunks import Item, join, split
from etude.base.conditioning import Conditioning
from etude.base.emphasis import EDITING, pieces_of, weighted
from etude.base.waiting import present, sent
from etude.core.errors import BaseError, EtudeWarning
from etude.core.families import FAMILIES
from etude.core.spelling import find_words


@dataclass(frozen=True)
class Tokens:
    """Tokenised prompts: ``ids`` int64 [B, 77 n] for each text encoder, with n chunks one after the other; ``cut``, the
    text of each prompt that was left out; and ``weights`` [B, 77 n] like ``ids``, or none if every weight is 1.

    Negative ids are rows of added words: -1 - r means row r of all rows of ``base.words``, one word after the other.
    """

    ids: tuple[Tensor, ...]
    cut: tuple[str, ...]
    weights: tuple[Tensor, ...] = ()

    def to(self, device: torch.device | str) -> Tokens:
        """A copy on another device, for tokens that are encoded again and again."""
        weights = tuple(each.to(device) for each in self.weights)
        return Tokens(tuple(ids.to(device) for ids in self.ids), self.cut, weights)


class PromptEditingWarning(EtudeWarning):
    """A prompt has A1111's [from:to:when], [one|other] or AND, which are not supported: brackets only set weights."""


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
        if base.reading.follows_a1111 and EDITING.search(prompt):
            fault = f"{prompt!r} has [from:to:when], [one|other] or AND, which are not supported"
            fault += ": they are read as weights and words"
            warnings.warn(fault, PromptEditingWarning, stacklevel=2)
        if cut:
            warnings.warn(f"prompt too long, left out {cut!r} of {prompt!r}", PromptCutWarning, stacklevel=2)
    return encode_tokens(base, tokens, clip_skip)


def tokenise(base: Base, prompts: Sequence[str]) -> Tokens:
    """Prompts as ids, as the base's ``reading`` says. A chunk is: start, at most 75 tokens, end, padding.

    All prompts have the same number of chunks, so that they form one batch; chunks beyond a prompt's end are empty.
    An added word (`hooks.added_tokens`) is replaced by its rows if it occurs as a separate word, spelt as
    `etude.core.spelling` says. Rows of one word stay together: if not all of them fit, the prompt ends before the word.
    """
    _need_text(base)
    # each encoder has its own tokenizer; if it pads with "!", a "!" in the text becomes padding, too
    lengths = [encoder.config.max_position_embeddings for encoder in base.text_encoders]
    pairs = list(zip(base.tokenizers, lengths, strict=True))
    ids, weights, longest = [], [], [""] * len(prompts)
    for tokenizer, length in pairs:
        fitted = [_fit(base, tokenizer, prompt, length) for prompt in prompts]
        shape = (len(prompts), length * base.reading.chunks)
        ids.append(torch.tensor([row for row, _, _ in fitted], dtype=torch.int64).reshape(shape))
        weights.append([row for _, row, _ in fitted])
        for number, (_, _, cut) in enumerate(fitted):
            longest[number] = max(longest[number], cut, key=len)
    if all(weight == 1 for rows in weights for row in rows for weight in row):  # checked before tensors are made
        return Tokens(tuple(ids), tuple(longest))
    differing = (torch.tensor(rows, dtype=torch.float32) for rows in weights)
    return Tokens(tuple(ids), tuple(longest), tuple(differing))


def encode_tokens(base: Base, tokens: Tokens, clip_skip: int = 0) -> Conditioning:
    """The text encoders' states, in the base's precision; differentiable.

    The family defines which layer is read, and whether the final layer norm is applied; with ``clip_skip`` n, the n-th
    layer before it is read (A1111's "Clip skip" is n + 1). The states of several encoders are concatenated.
    Chunks are encoded one by one, weighted and joined as the base's ``reading`` says; the first one gives ``pooled``.
    """
    _need_text(base)
    states: list[Tensor] = []
    pooled, count = None, base.reading.chunks
    records = FAMILIES[base.family].text_encoders
    with present(base, "text"):
        for number, (encoder, record) in enumerate(zip(base.text_encoders, records, strict=True)):
            length, place = encoder.config.max_position_embeddings, record.layer + clip_skip
            last = record.normed and place == 1  # this state is the encoder's normal output
            rows = sent(tokens.ids[number], base.device).reshape(-1, length)
            output = encoder(rows, output_hidden_states=not last)
            state = output.last_hidden_state if last else _layer(output.hidden_states, place)
            state = encoder.final_layer_norm(state) if record.normed and not last else state
            if tokens.weights:
                weights = sent(tokens.weights[number], base.device).reshape(-1, length)
                state = weighted(state, weights, base.reading.emphasis)
            states.append(
                join(state.unflatten(0, (len(tokens.ids[number]), count)), base.reading.rule) if count > 1 else state
            )
            pooled = output.text_embeds[::count] if record.pooled else pooled
    return Conditioning(states[0] if len(states) == 1 else torch.cat(states, dim=-1), pooled)


def _need_text(base: Base) -> None:
    if base.unclip is not None and base.unclip.instead:
        fault = "reads no texts: it is a base of image variations"
        raise BaseError(base.path, fault, "choose a base with a text encoder")
    if not base.text_encoders:
        raise BaseError(base.path, "was loaded without its text encoder", 'add "text" to the `parts` of load_base')
    if next(base.text_encoders[0].parameters()).is_meta:
        action = 'add "text" to the `step_parts` of the method\'s params'
        raise BaseError(base.path, "has no text encoder any more: it was freed before the first step", action)


def _layer(states: Sequence[Tensor], from_end: int) -> Tensor:
    if from_end >= len(states):
        raise BaseError("clip_skip", f"skips all {len(states) - 1} layers of the text encoder", "lower it")
    return states[-from_end]


def _fit(base: Base, tokenizer: Any, prompt: str, length: int) -> tuple[list[int], list[float], str]:
    """The ids of a prompt, with start, end and padding of each chunk; their weights; and the text that did not fit."""
    plain, items = _items(base, tokenizer, prompt)
    size, count = length - 2, base.reading.chunks
    whole = next((place for place, item in enumerate(items) if len(item.ids) > size), len(items))
    by_commas = base.reading.rule == "a1111" and count > 1
    chunks = split(items[:whole], size, tokenizer.convert_tokens_to_ids(",</w>") if by_commas else None)
    left_out = [item for chunk in chunks[count:] for item in chunk] + items[whole:]
    ids: list[int] = []
    weights: list[float] = []
    for chunk in [*chunks, *([[]] * count)][:count]:
        own = [id for item in chunk for id in item.ids]
        ids += [tokenizer.bos_token_id, *own, tokenizer.eos_token_id]
        ids += [tokenizer.pad_token_id] * (size - len(own))
        own_weights = [item.weight for item in chunk for _ in item.ids]
        weights += [1.0, *own_weights, 1.0] + [1.0] * (size - len(own))
    return ids, weights, plain[left_out[0].start :] if left_out else ""


def _items(base: Base, tokenizer: Any, prompt: str) -> tuple[str, list[Item]]:
    """A prompt's text without the brackets of weights, and its tokens, words and breaks."""
    plain, items = "", []
    for text, weight in pieces_of(prompt, base.reading):
        if text is None:
            items.append(Item((), weight, len(plain)))
            plain += " BREAK "
            continue
        for part, rows in _pieces(base, text):
            if rows:
                items.append(Item(tuple(rows), weight, len(plain)))
            else:
                coded = tokenizer(part, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
                places = zip(coded["input_ids"], coded["offset_mapping"], strict=True)
                items += [Item((id,), weight, len(plain) + place) for id, (place, _) in places]
            plain += part
    return plain, items


def _pieces(base: Base, prompt: str) -> Iterator[tuple[str, range]]:
    """The prompt's pieces in order, each with the ids of its rows if it is an added word."""
    rows: list[range] = []
    count = 0
    for vectors in base.words.values():
        rows.append(range(-1 - count, -1 - count - len(vectors[0]), -1))
        count += len(vectors[0])
    for piece, number in find_words(list(base.words), prompt):
        yield piece, range(0) if number is None else rows[number]
