from __future__ import annotations

import pytest

from etude.metrics import BY_KEY
from etude.pages import words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.81234, "0.812"),
        (0.01234, "0.0123"),
        (-0.5, "−0.500"),
        (None, "–"),
        (12.3456, "12.346"),
        (0.1, "0.100"),
        (0.09996, "0.1"),
        (-0.0123, "−0.0123"),
        (0.0, "0"),
    ],
)
def test_numbers_have_few_digits_and_what_is_unknown_is_a_dash(value: float | None, text: str) -> None:
    assert words.number(value) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (12, "12 bytes"),
        (999, "999 bytes"),
        (1_000, "1 kB"),
        (3_830, "3.83 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (28_400_000, "28.4 MB"),
        (4_265_000_000, "4.26 GB"),
        (999_600_000_000, "1 TB"),
    ],
)
def test_sizes_are_in_the_unit_that_suits(count: int, text: str) -> None:
    assert words.size(count) == text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"base": 0.5, "best": 0.7, "base_spread": 0.02, "best_spread": 0.01}, "10 times the spread"),
        ({"base": 0.5, "best": 0.55, "base_spread": 0.02, "best_spread": 0.01}, "not certain"),
        ({"base": 0.5, "best": 0.4, "base_spread": 0.02}, "did not rise"),
        ({"base": 0.5, "best": 0.7}, "the spread is unknown"),
        ({"base": 0.0, "best": 1.0, "base_spread": 0.0, "best_spread": 0.0}, "the same with every seed"),
        ({"best": 0.7}, ""),
    ],
)
def test_a_gain_is_weighed_against_the_spread_between_seeds(values: dict[str, float], text: str) -> None:
    said = words.verdict(values, BY_KEY["image_similarity"])
    assert text in said
    assert bool(text) == bool(said)


def test_a_gain_is_certain_above_three_times_the_larger_spread_and_none_if_nothing_changed() -> None:
    metric = BY_KEY["image_similarity"]
    values = {"base": 0.5, "best": 0.875, "base_spread": 0.0625, "best_spread": 0.125}
    assert "so not certain" in words.verdict(values, metric)
    assert "so not certain" in words.verdict(values | {"base_spread": 0.125, "best_spread": 0.0625}, metric)
    assert "From 0.500 to 0.876: 3 times the spread" in words.verdict(values | {"best": 0.876}, metric)
    assert "From 0.500 to 0.500: it did not rise" in words.verdict(values | {"best": 0.5}, metric)
    assert words.verdict({"base": 0.5, "base_spread": 0.1}, metric) == ""


def test_a_spread_has_two_digits() -> None:
    assert [words.spread(value) for value in (0.01234, 0.5, None)] == ["± 0.012", "± 0.5", ""]


def test_where_lower_is_better_a_fall_is_the_gain() -> None:
    values = {"base": 0.5, "best": 0.3, "base_spread": 0.02, "best_spread": 0.01}
    assert "10 times the spread" in words.verdict(values, BY_KEY["validation_loss"])
    assert "did not fall" in words.verdict(values | {"best": 0.6}, BY_KEY["validation_loss"])


def test_a_method_is_named_by_its_docstring() -> None:
    assert words.title(("LoRA: a low-rank change.", "More."), "lora") == ("LoRA", "A low-rank change.")
    assert words.title(("No colon here",), "lora") == ("lora", "No colon here")
    assert words.title(("LoRA: small.", "More."), "x") == ("LoRA", "Small.")
    assert words.title((), "lora") == ("lora", "lora")
