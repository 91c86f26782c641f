"""The output of tasks for people: lines on stdout, warnings and progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

from etude.core.errors import in_a_line, in_lines

T = TypeVar("T")
WIDTH = 200  # most characters of a list of cases in a line


def say(text: str, *, error: bool = False) -> None:
    """Print lines without mark-up or wrapping, so that file names in a log stay whole; control codes are escaped."""
    from rich.console import Console

    Console(stderr=error, markup=False, highlight=False, emoji=False).print(in_lines(text), soft_wrap=True)


def warn(text: str) -> None:
    """Print a warning on stderr, as one line, and continue."""
    say(f"warning: {in_a_line(text)}", error=True)


def shorten(text: str, most: int = 60) -> str:
    """The text, without its middle if it is longer than ``most`` characters."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 2 + 1 :]}"


def first_of(cases: Sequence[str]) -> str:
    """As many of the first ``cases`` as fit in a line, and the number of the others."""
    shown = [shorten(cases[0], WIDTH)]
    for case in cases[1:]:
        if len("; ".join([*shown, case])) > WIDTH:
            break
        shown.append(case)
    more = len(cases) - len(shown)
    return "; ".join(shown) + (f" and {more} more" if more else "")


def progress(items: Sequence[T], title: str) -> Iterator[T]:
    """The items, with a progress bar on stderr if it is a terminal."""
    from rich.console import Console
    from rich.progress import track

    quiet = not sys.stderr.isatty()
    yield from track(items, description=title, console=Console(stderr=True), disable=quiet, transient=True)
