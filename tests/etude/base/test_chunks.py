"""Long texts: their tokens and states against what transformers computes of each chunk, put together by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from etude.base.base import Base
from etude.base.chunks import joined_length
from etude.base.settings import Text
from etude.base.text import PromptCutWarning, encode_prompts, tokenise
from etude.diffusion.hooks import added_tokens

LONG = "a photo of " + "red cat, " * 30 + "a blue dog on a hill " * 12  # 174 tokens
Loaded = Callable[[str], Base]


def reading(base: Base, chunks: int, rule: Literal["a1111", "kohya"] = "a1111", emphasis: Any = "none") -> Base:
    """The base, which reads texts in another way."""
    return replace(base, reading=Text(chunks=chunks, rule=rule, emphasis=emphasis))


def chunks_of(base: Base, prompt: str, number: int = 0) -> list[list[str]]:
    """The words of each chunk, without start, end and padding."""
    tokenizer = base.tokenizers[number]
    rows = tokenise(base, [prompt]).ids[number].reshape(-1, 77).tolist()
    assert all(row[0] == tokenizer.bos_token_id for row in rows)
    ends = [row.index(tokenizer.eos_token_id, 1) for row in rows]
    for row, end in zip(rows, ends, strict=True):
        assert set(row[end + 1 :]) <= {tokenizer.pad_token_id}
    return [
        tokenizer.convert_ids_to_tokens([max(id, 0) for id in row[1:end]]) for row, end in zip(rows, ends, strict=True)
    ]


def lengths(base: Base, prompt: str) -> list[int]:
    return [len(chunk) for chunk in chunks_of(base, prompt)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("cat " * 70 + ", " + "dog " * 10, [71, 10, 0]),  # the comma ends the chunk, what is behind it goes on
        ("cat " * 54 + ", " + "dog " * 30, [75, 10, 0]),  # it is the 21st from the end: too far
        ("cat " * 55 + ", " + "dog " * 30, [56, 30, 0]),  # the 20th is near enough
        ("cat " * 55 + ", " + "dog " * 19, [75, 0, 0]),  # all fits
        ("cat " * 75 + ", dog", [75, 2, 0]),  # a comma goes into the next chunk, and is no place to split there
        ("cat " * 75 + ", " + "dog " * 75, [75, 75, 1]),
        ("cat " * 80, [75, 5, 0]),
    ],
)
def test_a1111_splits_after_a_comma_among_the_last_twenty_tokens(sd1: Base, prompt: str, expected: list[int]) -> None:
    base = reading(sd1, 3)
    assert lengths(base, prompt) == expected
    assert tokenise(base, [prompt]).cut == ("",)


def test_break_begins_a_chunk_where_brackets_are_read_and_twice_leaves_one_empty(sd1: Base) -> None:
    base = reading(sd1, 3, emphasis="a1111")
    assert chunks_of(base, "a cat BREAK (a\nBREAK dog:1.2)") == [["a</w>", "cat</w>"], ["a</w>"], ["dog</w>"]]
    assert lengths(base, "a cat BREAK BREAK a dog") == [2, 0, 2]
    assert lengths(base, "a BREAK") == [1, 0, 0]
    for other in (reading(sd1, 2), reading(sd1, 2, "kohya", "kohya")):  # there it is a word
        assert chunks_of(other, "a BREAK") == chunks_of(other, "a break")


def transformers_ids(base: Base, number: int, prompt: str, chunks: int) -> list[list[int]]:
    """kohya's chunks: the ids that transformers pads and cuts to all places at once, 75 after 75."""
    tokenizer = base.tokenizers[number]
    whole = tokenizer(prompt, padding="max_length", truncation=True, max_length=75 * chunks + 2, verbose=False)
    inner = whole["input_ids"][1:-1]
    rows = []
    for first in range(0, 75 * chunks, 75):
        own = [id for id in inner[first : first + 75] if id not in (tokenizer.eos_token_id, tokenizer.pad_token_id)]
        rows.append([tokenizer.bos_token_id, *own, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * (75 - len(own))])
    return rows


def states_of(base: Base, number: int, rows: list[list[int]]) -> list[Tensor]:
    """The states [77, d] of each chunk, encoded alone, as `encode_prompts` reads a text of one chunk."""
    encoder = base.text_encoders[number]
    output = encoder(torch.tensor(rows), output_hidden_states=True)
    return list(output.last_hidden_state if base.family != "sdxl" else output.hidden_states[-2])


@pytest.mark.parametrize("chunks", [2, 3])
@pytest.mark.parametrize("prompt", [LONG, "a cat", ""])
@torch.no_grad()
def test_kohya_fills_each_chunk_and_leaves_out_the_starts_and_ends_between_them(
    base: Base, prompt: str, chunks: int
) -> None:
    own = reading(base, chunks, "kohya")
    tokens = tokenise(own, [prompt])
    parts = []
    for number in range(len(base.text_encoders)):
        rows = transformers_ids(base, number, prompt, chunks)
        assert tokens.ids[number].reshape(-1, 77).tolist() == rows
        states = states_of(base, number, rows)
        parts.append(torch.cat([states[0][:1], *(state[1:76] for state in states), states[-1][76:]]))
    with pytest.warns(PromptCutWarning) if tokens.cut[0] else torch.no_grad():
        found = encode_prompts(own, [prompt])
    assert found.hidden.shape[1] == joined_length(chunks, "kohya") == 75 * chunks + 2
    torch.testing.assert_close(found.hidden[0], torch.cat(parts, dim=-1), rtol=0, atol=1e-10)


@torch.no_grad()
def test_the_states_of_a1111_are_those_of_each_chunk_and_sdxl_pools_the_first(base: Base) -> None:
    own = reading(base, 3)
    found = encode_prompts(own, [LONG, "a cat"])
    assert found.hidden.shape[:2] == (2, joined_length(3, "a1111")) == (2, 231)
    first, *_ = LONG.partition("a blue")
    for place in range(3):
        rows = [tokenise(own, [LONG]).ids[n].reshape(-1, 77)[place].tolist() for n in range(len(base.text_encoders))]
        states = [states_of(base, number, [row])[0] for number, row in enumerate(rows)]
        torch.testing.assert_close(
            found.hidden[0, 77 * place : 77 * place + 77], torch.cat(states, dim=-1), rtol=0, atol=1e-10
        )
    short, empty = encode_prompts(base, ["a cat"]), encode_prompts(base, [""])
    torch.testing.assert_close(
        found.hidden[1], torch.cat([short.hidden[0], empty.hidden[0], empty.hidden[0]]), rtol=0, atol=1e-10
    )
    if found.pooled is not None and short.pooled is not None:
        torch.testing.assert_close(found.pooled[1], short.pooled[0], rtol=0, atol=1e-10)
        beginning = encode_prompts(base, [first[: len("a photo of ") + len("red cat, ") * 24].strip()]).pooled
        assert beginning is not None
        torch.testing.assert_close(found.pooled[0], beginning[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize(("count", "fits"), [(75, True), (76, False)])
def test_a_word_may_have_as_many_rows_as_a_chunk_has_places(sd1: Base, count: int, fits: bool) -> None:
    rows = (torch.zeros(count, 32, dtype=torch.float64),)
    with added_tokens(reading(sd1, 3), {"sks": rows}) as base:
        tokens = tokenise(base, ["a sks dog"])
        assert tokens.cut == ("" if fits else "sks dog",)
        assert int((tokens.ids[0] < 0).sum()) == (75 if fits else 0)


def test_only_what_the_last_chunk_has_no_place_for_is_left_out(sd1: Base) -> None:
    text = "cat " * 150 + "blue dog"
    assert tokenise(reading(sd1, 3), [text]).cut == ("",)
    assert tokenise(reading(sd1, 2), [text]).cut == ("blue dog",)
    assert tokenise(reading(sd1, 1), ["cat " * 70 + ", " + "dog " * 10]).cut == (
        "dog " * 6,
    )  # no chunk: no backtracking


@pytest.mark.parametrize("rule", ["a1111", "kohya"])
def test_the_rows_of_a_word_stay_in_one_chunk(sd1: Base, rule: Literal["a1111", "kohya"]) -> None:
    rows = (torch.zeros(4, 32, dtype=torch.float64),)
    with added_tokens(reading(sd1, 2, rule), {"sks": rows}) as base:
        ids = tokenise(base, ["cat " * 73 + "sks dog"]).ids[0].reshape(-1, 77)
        assert ids[1, 1:5].tolist() == [-1, -2, -3, -4]
        assert (ids[0] < 0).sum() == 0
        again = tokenise(base, ["cat " * 71 + "sks dog"]).ids[0].reshape(-1, 77)
        assert again[0, 72:76].tolist() == [-1, -2, -3, -4]
        hidden = encode_prompts(base, ["cat " * 73 + "sks dog"]).hidden
        assert hidden.shape[1] == joined_length(2, rule)
