"""How much GPU memory the builds of a plan need: what was counted before, and with a GPU also what was not."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import chdir
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from etude.core.method import method_names
from flows.plan import CHECKOUT, Stage
from flows.terminal import device_memory


class Needs(NamedTuple):
    """What is told of each build, by the stage's name, and what to do where one does not fit."""

    told: dict[str, str]
    lines: list[str]


def needs(root: Path, stages: Iterable[Stage]) -> Needs:
    """The memory of the builds among ``stages``; none for a project whose code is not this one."""
    found, room = Needs({}, []), device_memory()
    builds = [stage for stage in stages if stage.label.endswith(":build") and root.resolve() == CHECKOUT]
    # by name: it may count, with torch, and flows do not compute
    told = import_module("etude.estimates").told
    uncounted = []
    for stage in builds:
        method = stage.label.removesuffix(":build")
        if method not in method_names():
            continue
        with chdir(root):
            text, action = told(method, room)
        found.told[stage.name] = text
        if action:
            found.lines.append(f"{method} does not fit. Next: {action}.")
        if not text:
            uncounted.append(method)
    if uncounted:
        found.lines.append(f"memory is not counted yet of {', '.join(uncounted)}: `etude memory METHOD` counts it")
    return found
