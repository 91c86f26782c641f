"""The value syntax of A1111's X/Y/Z plot, written independently (its code is AGPL).

    1-5          1, 2, 3, 4, 5          a range, both ends included
    1-5 (+2)     1, 3, 5                a range with a step; the sign is part of it
    10-5 (-3)    10, 7
    0-1 [6]      0, 0.2, …, 1           this many values, evenly spaced (whole numbers: truncated, not rounded)
    a, "b, c"    a | b, c               values separated by commas; a comma in double quotes belongs to the value

Steps are counted in decimals: 0-1 (+0.1) ends at 1 and contains 0.3, not 0.30000000000000004. A wrong text raises a
ValueError whose message shows what to write instead; the schema of the params reports it.
"""

from __future__ import annotations

import csv
import re
from decimal import Decimal
from io import StringIO

SMALLEST, LARGEST = 32, 4096  # sides of a picture, in pixels
MOST_DIGITS = 18  # before the decimal point
MOST = 1000  # values of one axis: more are a typing error, not a grid
ADVICE = "write 1-5, 1-5 (+2), 0-1 [6] or values separated by commas"

_NUMBER = r"[+-]?\s*(?:\d+(?:\.\d*)?|\.\d+)"
_RANGE = re.compile(rf"({_NUMBER})\s*-\s*({_NUMBER})\s*(?:\(\s*(.*?)\s*\)|\[\s*(.*?)\s*\])?")
_STEP = re.compile(r"[+-](?:\d+(?:\.\d*)?|\.\d+)")


def texts(text: str) -> list[str]:
    """Values separated by commas, stripped; at least one."""
    try:
        rows = list(csv.reader(StringIO(text.strip()), skipinitialspace=True))
    except csv.Error as error:
        raise ValueError(f"`{text}` cannot be split ({error}): {ADVICE}") from None
    values = [value.strip() for row in rows for value in row]
    if not values or not all(values):
        raise ValueError(f"`{text}` has an empty value: {ADVICE}")
    return values


def size(text: str) -> tuple[int, int]:
    """``"512x768"`` as (width, height) in pixels: multiples of 8, from 32 to 4096."""
    match = re.fullmatch(r"(\d{2,4})\s*[x×]\s*(\d{2,4})", text, re.ASCII)
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    if width % 8 or height % 8 or not SMALLEST <= min(width, height) <= max(width, height) <= LARGEST:
        raise ValueError(f"`{text}` is not a size: write 512x768, in multiples of 8 from {SMALLEST} to {LARGEST}")
    return width, height


def integers(text: str) -> list[int]:
    """The whole numbers in ``text``; ranges are expanded."""
    numbers = _numbers(text, whole=True)
    return [int(number) for number in numbers]


def floats(text: str) -> list[float]:
    """The numbers in ``text``; ranges are expanded."""
    return [float(number) for number in _numbers(text, whole=False)]


def _numbers(text: str, *, whole: bool) -> list[Decimal]:
    numbers = [number for part in texts(text) for number in _expand(part, whole)]
    if len(numbers) > MOST:
        raise ValueError(f"`{text}` means {len(numbers)} values: write at most {MOST}")
    return numbers


def _expand(part: str, whole: bool) -> list[Decimal]:
    match = _RANGE.fullmatch(part)
    if not match:
        return [_number(part, whole)]
    start, end = _number(match[1], whole), _number(match[2], whole)
    if match[4] is not None:
        return _spaced(part, start, end, match[4], whole)
    step = Decimal(1) if match[3] is None else _step(part, match[3], whole)
    if (end - start) * step < 0:
        raise ValueError(f"`{part}` never reaches its end: change the sign of its step, as in 5-1 (-1)")
    count = int((end - start) / step) + 1
    if count > MOST:
        raise ValueError(f"`{part}` means {count} values: write at most {MOST}")
    return [start + step * number for number in range(count)]


def _spaced(part: str, start: Decimal, end: Decimal, count: str, whole: bool) -> list[Decimal]:
    if not re.fullmatch(r"\d{1,4}", count) or not 2 <= int(count) <= MOST:
        raise ValueError(f"the number of values in `{part}` is [{count}]: write one from 2 to {MOST} in the brackets")
    values = [start + (end - start) * number / (int(count) - 1) for number in range(int(count))]
    return [Decimal(int(value)) for value in values] if whole else values


def _step(part: str, text: str, whole: bool) -> Decimal:
    if not _STEP.fullmatch(text):
        raise ValueError(f"`{part}` has the step ({text}): write its sign and its digits, such as (+2) or (-0.5)")
    step = _number(text, whole)
    if step == 0:
        raise ValueError(f"`{part}` has the step 0: {ADVICE}")
    return step


def _number(text: str, whole: bool) -> Decimal:
    text = re.sub(r"\s", "", text)
    if not re.fullmatch(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", text):
        raise ValueError(f"`{text}` is not a number: {ADVICE}")
    number = Decimal(text)
    if number and number.adjusted() >= MOST_DIGITS:
        raise ValueError(f"`{text}` is too large: write numbers of at most {MOST_DIGITS} digits")
    if whole and number != int(number):
        raise ValueError(f"`{text}` is not a whole number: {ADVICE}")
    return number
