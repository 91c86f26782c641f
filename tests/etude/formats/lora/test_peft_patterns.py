"""Ranks and alphas by pattern: the same number as PEFT's own expression gives."""

from __future__ import annotations

import re

import pytest

from etude.formats.peft_config import parse

MODULES = ["a.to_q", "b.a.to_q", "xa.to_q", "to_q", "encoder.layers.0.fc1", "encoder.layers.10.fc1", "to_q.inner"]
PATTERNS = [
    {"to_q": 2},
    {"a.to_q": 2, "to_q": 3},
    {"to_q": 3, "a.to_q": 2},
    {r"a\.to_q": 2},
    {"^a.to_q": 2, "^to_q$": 5},
    {"text_model.to_q": 2},
    {r"layers\.\d+\.fc1": 2, "layers.10.fc1": 3},
    {"layers.10.fc1": 3, r"layers\.\d+\.fc1": 2},
    {"(a|b).to_q": 4, ".*to_q": 6},
    {"to_q$": 2, "nothing": 3},
]


@pytest.mark.parametrize("patterns", PATTERNS)
@pytest.mark.parametrize("module", MODULES)
def test_the_first_pattern_that_matches_counts_as_in_peft(patterns: dict[str, int], module: str) -> None:
    expected = 8
    for key, number in reversed(patterns.items()):
        if any(re.match(rf"(.*\.)?({key})$", name) for name in (module, f"text_model.{module}")):
            expected = number
    assert parse("adapter", {"rank_pattern": patterns}, is_text=True).rank_of(module) == expected


def test_only_text_encoders_have_a_second_name() -> None:
    fields = {"rank_pattern": {".*model.*": 2}}
    assert parse("adapter", fields).rank_of("mid_block.to_q") == 8
    assert parse("adapter", fields, is_text=True).rank_of("encoder.to_q") == 2


def test_thousands_of_names_are_looked_up_and_compile_no_expression(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"blocks.{number}.to_q" for number in range(1500)]
    adapter = parse("adapter", {"rank_pattern": {name: 1 + number for number, name in enumerate(names)}})
    monkeypatch.setattr(re, "match", None)
    monkeypatch.setattr(re, "compile", None)
    assert [adapter.rank_of(name) for name in names] == list(range(1, 1501))
