"""Draw the XYZ grid of a method: ``artifacts/<method>/grid/``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from etude.base.settings import Sampling, Text
from etude.core.errors import ParamsError
from etude.core.files import read_json, write_json
from etude.core.method import load_method
from etude.core.params import Learned, Schema, pick
from etude.grids.settings import Grid, refuse_unknown
from tasks.shell import publish, run
from tasks.shell.console import progress, say

if TYPE_CHECKING:
    from etude.grids.axes import Choices

__all__ = ["StageParams", "grid"]
SHOWN = 8  # training pictures that are copied, to be compared with the grid


class StageParams(Schema):
    """The parts of params.yaml that this stage depends on."""

    base: str
    device: str
    grid: Grid
    precision: str
    prompts: dict[str, list[str]]
    sampling: Sampling
    text: Text
    threads: int


def grid(method: str) -> None:
    """Draw the grid of METHOD, with the axes of `grid` in params.yaml."""
    stage_params = pick("params.yaml", StageParams)
    own = pick(f"pipelines/{method}/params.yaml", Learned)
    settings = load_method(method).axes
    try:
        refuse_unknown(stage_params.grid, tuple(settings))
    except ValueError as error:
        raise ParamsError("params.yaml: grid", str(error), f"choose an axis that {method} has") from None
    from etude.grids.axes import read_axis
    from etude.grids.cells import Defaults, cells, gather
    from etude.grids.drawing import paint
    from etude.grids.layout import Layout, refuse_huge
    from etude.grids.sheet import manifest, measured, sheet
    from etude.rendering.pictures import draw
    from etude.rendering.renderer import open_renderer

    named = stage_params.model_dump(include={"base", "device", "precision", "threads"})
    renderer = open_renderer(method, **named, reading=stage_params.text)
    choices = _choices(method, stage_params, own)
    defaults = Defaults(own.word, stage_params.grid.seed, stage_params.sampling, settings)
    axes = [read_axis(axis, choices) for axis in (stage_params.grid.x, stage_params.grid.y, stage_params.grid.z)]
    layout = Layout(sheet(method, renderer.path.as_posix(), axes, choices, defaults, stage_params.grid.cell))
    refuse_huge(layout, stage_params.grid.limit)
    each = cells(axes, choices, defaults)
    requests = gather(each)
    drawn = draw(renderer, requests, lambda missing: progress(missing, f"{method}: draw"))
    paths = [drawn.of(request, cell.seed) for cell, request in zip(each, requests, strict=True)]
    with publish(Path("artifacts", method, "grid")) as out:
        paint(layout, {cell.position: path for cell, path in zip(each, paths, strict=True)}).save(out / "grid.png")
        numbers = measured(Path("artifacts", method, "evaluation", "pictures.csv"), own.word)
        write_json(out / "manifest.json", manifest(axes, each, paths, numbers))
        _training(Path("data", own.set), out / "training")
    width, height = layout.full
    say(f"{method}: {len(each)} cells, {drawn.new} pictures drawn now; {width} × {height} pixels")


def _choices(method: str, stage_params: StageParams, own: Learned) -> Choices:
    from etude.grids.axes import Choices
    from etude.rendering.candidates import candidates
    from etude.rendering.prompts import prompts_of

    folder = Path("artifacts", method)
    by_name = {candidate.name: candidate for candidate in candidates(folder / "build")}
    best = read_json(folder / "evaluation" / "best.json")["checkpoint"]
    return Choices(by_name, best, prompts_of(stage_params.prompts, own.set))


def _training(data: Path, out: Path) -> None:
    """Copy a few training pictures with their captions, to be compared with the grid."""
    from etude.rendering.real import evenly, real_pictures

    out.mkdir()
    for name in evenly(real_pictures(data / "prepared"), SHOWN):
        shutil.copyfile(data / "prepared" / f"{name}.png", out / f"{name}.png")
        shutil.copyfile(data / "captioned" / f"{name}.txt", out / f"{name}.txt")


if __name__ == "__main__":
    run(grid)
