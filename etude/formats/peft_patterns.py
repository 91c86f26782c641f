"""PEFT's regular expressions for modules: numbers by pattern, and which expressions may be matched.

An expression in a file may be written so that it takes minutes to match: such ones are refused.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence

LONGEST, REPEATS, GROUPS, PATTERNS = 300, 3, 3, 16  # bounds: beyond them, matching could take minutes
_REPEAT = re.compile(r"(?<!\\)(?:[*+{]|(?<!\()\?)")
_NESTED = re.compile(r"\)[*+{]")
_NAME = re.compile(r"\^?(?:[\w-]|\\?\.)+\$?")  # the whole name, or its end; a dot in it is any one character
LITERAL = re.compile(r"(?:[\w.^$-]|\\\.)*")  # a name, with its dots escaped or not


class Patterns:
    """Numbers by pattern: a module gets that of the first pattern that fits its name, or its end after a dot.

    PEFT does the same. Most patterns are names, and there may be thousands: only those with the length of a module's
    name, or of one of its ends, are tried.
    """

    def __init__(self, numbers: Mapping[str, float]) -> None:
        self._names: dict[int, list[tuple[int, re.Pattern[str], float]]] = {}  # length → place, pattern, number
        self._expressions: list[tuple[int, re.Pattern[str], float]] = []
        for place, (key, number) in enumerate(numbers.items()):
            if _NAME.fullmatch(key):
                name = key.removesuffix("$")
                length = len(name.removeprefix("^").replace("\\", ""))
                self._names.setdefault(length, []).append((place, re.compile(name), number))
            else:
                self._expressions.append((place, re.compile(rf"(.*\.)?({key})$"), number))

    def number(self, names: Sequence[str], default: float) -> float:
        """The number of a module, by any of its names; ``default`` if they match no pattern."""
        found = []
        for name in names:
            starts = [0, *(place + 1 for place, letter in enumerate(name) if letter == ".")]
            for start in starts:
                known = self._names.get(len(name) - start, [])
                found += [(place, number) for place, pattern, number in known if pattern.fullmatch(name, start)]
            found += [(place, number) for place, pattern, number in self._expressions if pattern.match(name)]
        return min(found, default=(0, default))[1]


def is_usable(pattern: str) -> bool:
    """Whether a regular expression is valid, and can be matched in a short time."""
    if len(pattern) > LONGEST or len(_REPEAT.findall(pattern)) > REPEATS:
        return False
    if pattern.count("(") > GROUPS or _NESTED.search(pattern):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, Warning, RecursionError, OverflowError):
        return False
    return True
