"""How much GPU memory the stages of a plan need: counts from before; with a GPU, missing ones are counted now."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import chdir
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from flows.plan import CHECKOUT, Stage
from flows.terminal import device_memory


class Needs(NamedTuple):
    """The memory that each stage needs, in words, by its name; and a line for each stage that does not fit."""

    told: dict[str, str]
    lines: list[str]


def needs(root: Path, stages: Iterable[Stage]) -> Needs:
    """The GPU memory of ``stages``; none for a project whose code is not this one."""
    found = Needs({}, [])
    if root.resolve() != CHECKOUT:
        return found
    # imported by name: `etude.estimates` may count with torch, and no module of flows imports code that computes
    estimates, room = import_module("etude.estimates"), device_memory()
    for stage in stages:
        with chdir(root):
            found.told[stage.name], action = estimates.told(stage.label, room)
        if action:
            found.lines.append(f"{stage.label} does not fit. Next: {action}.")
    if estimates.UNCOUNTED in found.told.values():
        found.lines.append("memory: `etude memory METHOD` counts a build, and what draws with it")
    return found
