"""What the tasks tell a person: lines on stdout, warnings and progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def say(text: str, *, error: bool = False) -> None:
    """One line, as it is: no mark-up, no wrapping, so that file names stay whole in a log."""
    from rich.console import Console

    Console(stderr=error, markup=False, highlight=False, emoji=False).print(text, soft_wrap=True)


def warn(text: str) -> None:
    """A line on stderr that something was left out or looks wrong, while the work goes on."""
    say(f"warning: {text}", error=True)


def progress(items: Sequence[T], title: str) -> Iterator[T]:
    """The items, under a bar on stderr; silent when that is no terminal."""
    from rich.console import Console
    from rich.progress import track

    quiet = not sys.stderr.isatty()
    yield from track(items, description=title, console=Console(stderr=True), disable=quiet, transient=True)
