"""How often a picture counts, by the name of its folder, as kohya's scripts read it: "10_sks dog" means ten times."""

from __future__ import annotations

from collections.abc import Iterable

from etude.core.beside.captions import REPEATS


def repeated_folders(names: Iterable[str]) -> list[str]:
    """The names of the folders with a number of repeats in their names, for each of the files ``names`` the nearest."""
    return sorted({folder for name in names if (folder := _nearest(name))})


def repeats_of(sources: Iterable[str]) -> int:
    """How often a picture counts; ``sources`` are its files, which have equal pixels: the largest number counts."""
    return max(map(_repeats, sources))


def _repeats(name: str) -> int:
    match = REPEATS.fullmatch(_nearest(name))
    return int(match["repeats"]) if match else 1


def _nearest(name: str) -> str:
    """The name of the nearest folder with repeats in it; empty if none has."""
    *folders, _ = name.split("/")
    return next(filter(REPEATS.fullmatch, reversed(folders)), "")
