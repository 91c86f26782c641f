"""Ranks and alphas by pattern: the same number as PEFT's own expression gives."""

from __future__ import annotations

import re

import pytest

from etude.core.errors import FormatError
from etude.formats.peft_config import parse
from etude.formats.peft_patterns import is_usable

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


@pytest.mark.parametrize(
    ("pattern", "usable"),
    [
        ("a" * 300, True),
        ("a" * 301, False),
        ("a*b+c{2}", True),
        ("a*b+c?d*", False),
        (r"a*b*c*\*\+\?", True),
        ("(?:a)(?:b)(?:c)", True),
        ("(a)(b)(c)(d)", False),
        ("(a)?(b)", True),
        ("(ab)+", False),
        ("[", False),
        ("a{99999999999}", False),
        ("[[a]", False),  # Python warns of it
    ],
)
def test_an_expression_is_matched_if_that_takes_a_short_time(pattern: str, usable: bool) -> None:
    assert is_usable(pattern) == usable


def test_sixteen_expressions_may_be_matched_and_names_do_not_count() -> None:
    patterns = {f"a.*{number}": 4 for number in range(16)} | {f"b.{number}": 5 for number in range(50)}
    assert parse("adapter", {"rank_pattern": patterns}).rank_of("a.x15") == 4
    with pytest.raises(FormatError, match="has 17 regular expressions in `rank_pattern`, of at most 16"):
        parse("adapter", {"rank_pattern": patterns | {"c.*": 4}})


@pytest.mark.parametrize(
    ("fields", "rank", "alpha"),
    [
        ({}, 8, 8.0),
        ({"r": 4}, 4, 8.0),
        ({"lora_alpha": 3, "r": 4, "use_rslora": True}, 4, 6.0),
        ({"lora_alpha": -9e29}, 8, -9e29),
        ({"peft_type": "LOHA", "alpha": 3, "lora_alpha": 5}, 8, 3.0),
        ({"peft_type": None, "use_dora": None, "alpha_pattern": None, "bias": "none", "new": []}, 8, 8.0),
    ],
)
def test_what_a_configuration_leaves_out_is_as_in_peft(fields: dict[str, object], rank: int, alpha: float) -> None:
    adapter = parse("adapter", fields)
    assert adapter.rank_of("a") == rank
    assert adapter.alpha_of("a", rank) == alpha
    with pytest.raises(FormatError, match=f"says that `a` has rank {rank}, but its tensors have rank {rank + 1}"):
        adapter.alpha_of("a", rank + 1)


@pytest.mark.parametrize("alpha", [1e30, -1e30, float("inf"), True, "4", None])
def test_an_alpha_that_is_no_number_of_a_usual_size_is_refused(alpha: object) -> None:
    with pytest.raises(FormatError, match="has `lora_alpha: .*`, which must be a number between -1e30 and 1e30"):
        parse("adapter", {"lora_alpha": alpha})


@pytest.mark.parametrize("field", ["use_rslora", "use_dora"])
def test_a_switch_of_lora_is_refused_in_another_kind(field: str) -> None:
    for kind in ("LOHA", "LOKR"):
        with pytest.raises(FormatError, match=f"has `{field}`, but the type is {kind}"):
            parse("adapter", {"peft_type": kind, field: True})
        parse("adapter", {"peft_type": kind, field: False})
