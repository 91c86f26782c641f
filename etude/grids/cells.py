"""From axes to cells, and from cells to the requests that draw them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from etude.base.settings import Sampling
from etude.core.errors import ParamsError
from etude.core.params import validate
from etude.grids.axes import PLACE, Axis, Choices, Value, size
from etude.rendering.pictures import Request, ask

SAMPLING = ("guidance", "steps", "sampler")


@dataclass(frozen=True)
class Cell:
    """One picture of a grid: its position, and all settings that it is drawn with."""

    position: tuple[int, int, int]  # column x, row y, grid z
    values: Mapping[str, Value]  # of the axes, by name
    seed: int
    request: Request  # with this cell's seed alone; `gather` joins the seeds of one request


@dataclass(frozen=True)
class Defaults:
    """The settings of a cell that no axis sets."""

    name: str  # fills [name]
    seed: int
    sampling: Sampling
    settings: Mapping[str, float]  # the method's `axes`


def cells(axes: Sequence[Axis | None], choices: Choices, defaults: Defaults) -> list[Cell]:
    """The cells of the axes x, y, z (None: one position); x changes fastest."""
    x, y, z = (range(len(axis.values)) if axis else range(1) for axis in axes)
    listed = []
    for k, j, i in product(z, y, x):
        values = {axis.name: axis.values[at] for axis, at in zip(axes, (i, j, k), strict=True) if axis}
        swap = next(((axis.values[0], values[axis.name]) for axis in axes if axis and axis.name == "replace"), None)
        listed.append(_cell((i, j, k), values, swap, choices, defaults))
    return listed


def _cell(
    position: tuple[int, int, int],
    values: Mapping[str, Value],
    swap: tuple[Value, Value] | None,
    choices: Choices,
    defaults: Defaults,
) -> Cell:
    candidate = choices.candidates[str(values.get("checkpoint", choices.best))]
    sampling_values: dict[str, Any] = {name: values[name] for name in SAMPLING if name in values}
    prompt, negative = str(values.get("prompt", choices.prompts[0])), defaults.sampling.negative
    if swap:
        prompt, negative = _replaced(prompt, negative, *map(str, swap))
    sampling = validate({**defaults.sampling.model_dump(), **sampling_values, "negative": negative}, Sampling, PLACE)
    own = {name: float(values.get(name, value)) for name, value in defaults.settings.items()}
    seed = int(values.get("seed", defaults.seed))
    picture_size = size(str(values["size"])) if "size" in values else None
    return Cell(position, values, seed, ask(candidate, prompt, defaults.name, [seed], sampling, own, picture_size))


def _replaced(prompt: str, negative: str, old: str, new: str) -> tuple[str, str]:
    """Search and replace in the prompt (A1111's *Prompt S/R*): ``old`` is the first value of the axis."""
    if old not in prompt and old not in negative:
        raise ParamsError(
            PLACE, f"`{old}` is not in the prompt `{prompt}`", "begin `replace` with a text that is in all prompts"
        )
    return prompt.replace(old, new), negative.replace(old, new)


def gather(cells: Sequence[Cell]) -> list[Request]:
    """The request of each cell. Cells that differ only by the seed share one request, which has all their seeds: they
    are drawn as one batch, as in the evaluate stage.
    """
    alike = [replace(cell.request, seeds=()) for cell in cells]
    seeds: dict[Request, set[int]] = {}
    for cell, request in zip(cells, alike, strict=True):
        seeds.setdefault(request, set()).add(cell.seed)
    return [replace(request, seeds=tuple(sorted(seeds[request]))) for request in alike]
