"""The GPU memory of every method with every preset, counted: `python -m tests.preset_memory [PRESET [METHOD]]`.

A preset says after the name of a method's file what card its build fits: ``# fits 8 GB``. Run this after a change of a
preset, or of what a build keeps; the whole table takes minutes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import chdir
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from commands.preset import apply_preset
from etude.core.method import load_method, method_names
from etude.core.params import MethodParams, load, pick
from etude.estimates import Shared, fits, setup_of
from etude.memory.footprint import Footprint
from etude.training.plan import SavesMemory
from tasks.shell.console import say
from tests.shipped import ROOT, copy_project

LARGE = ("sd15", "sd21", "sdxl")  # presets of models that need a GPU
CLAIM = re.compile(r"^pipelines/(\w+)/params\.yaml: *# fits (\d+) GB$", re.MULTILINE)
GIB = 2**30  # cards are sold in GiB
LEFT = 0.1  # share of a card that is left for what is not counted: workspaces, and gaps between tensors


def claims(preset: str) -> dict[str, int]:
    """What a preset says: method → GB of the card that its build fits."""
    text = (ROOT / "presets" / f"{preset}.yaml").read_text(encoding="utf-8")
    return {method: int(size) for method, size in CLAIM.findall(text)}


@cache
def counted_methods() -> list[str]:
    """The methods whose builds are counted with the presets' bases: those with switches, on the project's own base."""
    return [
        name
        for name in method_names()
        if issubclass(load_method(name).Params, SavesMemory) and "base" not in load_method(name).Params.model_fields
    ]


def count(preset: str, method: str) -> Footprint:
    """The build of a method with a preset, for 20 pictures, in the shipped project."""
    from etude.memory.build import count_build

    with TemporaryDirectory() as folder, chdir(copy_project(Path(folder) / "project")):
        apply_preset(preset, Path())
        params: MethodParams = load(f"pipelines/{method}/params.yaml", load_method(method).Params)
        setup = setup_of(pick("params.yaml", Shared), params)
        return count_build(load_method(method), method, params, setup)


def holds(footprint: Footprint, card: int) -> bool:
    """Whether a build fits a card of so many GB, with a tenth of it left."""
    return fits(footprint, int((1 - LEFT) * card * GIB))


def rows(presets: list[str], methods: list[str]) -> Iterator[str]:
    """A line for each count: the peak, and whether what the preset says is true."""
    for preset in presets:
        for method in methods:
            claim, footprint = claims(preset).get(method), count(preset, method)
            verdict = "nothing said" if claim is None else f"fits {claim} GB: {holds(footprint, claim)}"
            yield f"{preset:6}{method:22}{footprint.peak / 1e9:7.2f} GB  {verdict}"


if __name__ == "__main__":
    for line in rows(sys.argv[1:2] or list(LARGE), sys.argv[2:] or counted_methods()):
        say(line)
