"""Weights in brackets: what A1111 reads in them, and what they do to states."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from etude.base.base import Base
from etude.base.emphasis import weigh, weighted
from etude.base.text import PromptEditingWarning, encode_prompts, tokenise
from etude.core.errors import InputError
from etude.diffusion.hooks import added_tokens
from tests.etude.base.test_chunks import reading


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat", [("a cat", 1)]),
        ("", []),
        ("a (red) cat", [("a ", 1), ("red", 1.1), (" cat", 1)]),
        ("a [red] cat", [("a ", 1), ("red", 1 / 1.1), (" cat", 1)]),
        ("(red:1.3)", [("red", 1.3)]),
        ("(red:.5)(blue:-1)", [("red", 0.5), ("blue", -1)]),
        ("((a (b:2)) c)", [("a ", 1.21), ("b", 2.42), (" c", 1.1)]),
        (r"\(a\) \[b\] \\", [("(a) [b] \\", 1)]),
        (r"a\b", [("ab", 1)]),
        ("(never closed [at all", [("never closed ", 1.1), ("at all", 1)]),
        ("never) opened] :1.2)", [("never) opened] :1.2)", 1)]),
        ("(un)(broken)", [("unbroken", 1.1)]),
        ("(a [b) c]", [("a ", 1.1), ("b", 1), (" c", 1 / 1.1)]),
        ("(red: 1.3)", [("red: 1.3", 1.1)]),
        ("[a:b:0.5]", [("a:b:0.5", 1 / 1.1)]),
    ],
)
def test_brackets_weigh_as_in_a1111(prompt: str, expected: list[tuple[str, float]]) -> None:
    found = weigh(prompt, breaks=True)
    assert [text for text, _ in found] == [text for text, _ in expected]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in expected])


def test_a_weight_that_is_no_number_is_refused() -> None:
    with pytest.raises(InputError, match=r"has the weight `1\.2\.3`, which is no number"):
        weigh("(red:1.2.3)", breaks=False)


def test_a_weight_multiplies_its_tokens_and_a1111_restores_the_mean_of_the_chunk() -> None:
    states = torch.randn(2, 77, 4, dtype=torch.float64) + 1
    weights = torch.ones(2, 77)
    weights[1, 3:5] = 1.5
    plain = weighted(states, weights, "kohya")
    assert torch.equal(plain[1, 3:5], 1.5 * states[1, 3:5])
    assert torch.equal(plain[1, 5:], states[1, 5:])
    restored = weighted(states, weights, "a1111")
    assert torch.equal(restored[0], states[0])
    assert float(restored[1].mean()) == pytest.approx(float(states[1].mean()))
    torch.testing.assert_close(restored[1], plain[1] * (states[1].mean() / plain[1].mean()))


@pytest.mark.parametrize("kind", ["a1111", "kohya"])
def test_the_tokens_in_brackets_are_those_that_weigh_in_every_chunk(base: Base, kind: Any) -> None:
    own = reading(base, 2, emphasis=kind)
    plain = reading(base, 2)
    prompt = "cat " * 74 + "(red cat:1.5) dog"
    tokens, unweighted = tokenise(own, [prompt, "a dog"]), tokenise(plain, ["cat " * 74 + "red cat dog", "a dog"])
    for ids, others, weights in zip(tokens.ids, unweighted.ids, tokens.weights, strict=True):
        assert torch.equal(ids, others)
        assert weights[0].nonzero().shape[0] == 154
        assert (weights[0] != 1).nonzero().flatten().tolist() == [75, 78]
        assert bool((weights[1] == 1).all())
    found, before = (
        encode_prompts(own, [prompt, "a dog"]),
        encode_prompts(plain, ["cat " * 74 + "red cat dog", "a dog"]),
    )
    torch.testing.assert_close(found.hidden[1], before.hidden[1], rtol=0, atol=0)
    if kind == "kohya":
        torch.testing.assert_close(found.hidden[0, 75], 1.5 * before.hidden[0, 75], rtol=0, atol=1e-10)
        torch.testing.assert_close(found.hidden[0, 79:], before.hidden[0, 79:], rtol=0, atol=1e-10)


def test_brackets_are_characters_where_no_emphasis_is_asked_for(sd1: Base) -> None:
    found = tokenise(sd1, ["a (red:1.5) cat"])
    assert found.weights == ()
    assert "(</w>" in sd1.tokenizers[0].convert_ids_to_tokens(found.ids[0][0].tolist())


@pytest.mark.parametrize("prompt", ["a [cat:dog:0.5]", "a [cat|dog]", "a cat AND a dog", "[cat:3]"])
def test_what_a1111_reads_as_more_than_a_weight_is_told(sd1: Base, prompt: str) -> None:
    for emphasis in ("a1111", "kohya"):  # by A1111's rule, the latter is its "No norm"
        with pytest.warns(PromptEditingWarning, match="from:to:when"):
            encode_prompts(reading(sd1, 1, emphasis=emphasis), [prompt])
    encode_prompts(sd1, [prompt])
    encode_prompts(reading(sd1, 1, "kohya", emphasis="kohya"), [prompt])


def test_an_added_word_weighs_with_its_rows(sd1: Base) -> None:
    with added_tokens(reading(sd1, 1, emphasis="kohya"), {"sks": (torch.zeros(2, 32, dtype=torch.float64),)}) as base:
        tokens = tokenise(base, ["a (sks:1.4) dog"])
        assert tokens.weights[0][0, :5].tolist() == pytest.approx([1, 1, 1.4, 1.4, 1])
        assert tokens.to("cpu").weights[0].shape == (1, 77)
