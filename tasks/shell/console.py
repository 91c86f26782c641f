"""The output of tasks for people: lines on stdout, warnings and progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def say(text: str, *, error: bool = False) -> None:
    """Print one line without mark-up or wrapping, so that file names in a log are not broken."""
    from rich.console import Console

    Console(stderr=error, markup=False, highlight=False, emoji=False).print(text, soft_wrap=True)


def warn(text: str) -> None:
    """Print a warning on stderr, and continue."""
    say(f"warning: {text}", error=True)


def progress(items: Sequence[T], title: str) -> Iterator[T]:
    """The items, with a progress bar on stderr if it is a terminal."""
    from rich.console import Console
    from rich.progress import track

    quiet = not sys.stderr.isatty()
    yield from track(items, description=title, console=Console(stderr=True), disable=quiet, transient=True)
