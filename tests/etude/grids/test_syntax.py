from __future__ import annotations

import pytest

from etude.grids import syntax


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("7", [7]),
        ("1, 2,3", [1, 2, 3]),
        ("1-5", [1, 2, 3, 4, 5]),
        ("1-5 (+2)", [1, 3, 5]),
        ("10-5 (-3)", [10, 7]),
        ("1-10 [5]", [1, 3, 5, 7, 10]),  # evenly spaced, cut and not rounded
        ("1-3, 10, 20-40 (+10)", [1, 2, 3, 10, 20, 30, 40]),
        ("-2--1", [-2, -1]),
        ("-1", [-1]),
        (" 1 - 3 ", [1, 2, 3]),
        ("5-5", [5]),
        ("1-9 [2]", [1, 9]),
        ("0-999 [1000]", list(range(1000))),
        ("1-1000", list(range(1, 1001))),
        ("1-500, 1-500", [*range(1, 501), *range(1, 501)]),
        ("999999999999999999", [10**18 - 1]),
    ],
)
def test_whole_numbers_are_read_as_a1111_reads_them(text: str, values: list[int]) -> None:
    assert syntax.integers(text) == values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0-1 (+0.25)", [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("0-1 [6]", [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ("0-1", [0.0, 1.0]),
        ("0-1 (+0.1)", [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),  # no dust, no eleventh step to 1.1
        ("0-1 (+0.3)", [0.0, 0.3, 0.6, 0.9]),
        ("1-0 (-0.5)", [1.0, 0.5, 0.0]),
        ("1.5, 2e-3, -.5", [1.5, 0.002, -0.5]),
    ],
)
def test_numbers_are_counted_in_decimals(text: str, values: list[float]) -> None:
    assert syntax.floats(text) == values


def test_double_quotes_keep_a_comma() -> None:
    assert syntax.texts('sks, "a red, round sks" ,x') == ["sks", "a red, round sks", "x"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty value"),
        ("1,,2", "empty value"),
        ("1-5 (2)", "its sign"),
        ("1-5 (+0)", "step 0"),
        ("5-1", "never reaches its end"),
        ("1-5 (-1)", "never reaches its end"),
        ("1-5 [1]", "one from 2"),
        ("1-5 [many]", "one from 2"),
        ("1.5", "not a whole number"),
        ("one", "not a number"),
        ("1-", "not a number"),
        ("0-1000000000000", "at most 1000"),
        ("1-900, 1-900", "at most 1000"),
        ("1-500, 1-501", "1001 values: write at most 1000"),
        ("1-1001", "1001 values: write at most 1000"),
        ("1-9 [1001]", "one from 2 to 1000"),
        ("1-9 [00002]", "one from 2 to 1000"),
        ("1000000000000000000", "too large: write numbers of at most 18 digits"),
    ],
)
def test_a_fault_says_what_to_write_instead(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        syntax.integers(text)


@pytest.mark.parametrize(
    ("text", "size"), [("32x4096", (32, 4096)), ("4096 × 32", (4096, 32)), ("512x768", (512, 768))]
)
def test_sides_of_32_to_4096_pixels_are_a_size(text: str, size: tuple[int, int]) -> None:
    assert syntax.size(text) == size


@pytest.mark.parametrize("text", ["24x64", "64x24", "4104x64", "64x4104", "64x60", "60x64", "64", "64x64x64"])
def test_other_sides_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="write 512x768, in multiples of 8 from 32 to 4096"):
        syntax.size(text)
