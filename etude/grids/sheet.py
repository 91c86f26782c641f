"""From a grid's axes to the sheet to paint, and to the manifest for other programs."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etude.core.errors import InputError
from etude.core.placeholder import fill
from etude.grids.axes import Axis, Choices
from etude.grids.cells import Cell, Defaults
from etude.grids.layout import Label, Sheet
from etude.rendering.candidates import BASE
from etude.rendering.pixels import PICTURE, open_picture, pixel_digest


def sheet(
    method: str, base: str, axes: Sequence[Axis | None], choices: Choices, defaults: Defaults, cell: int
) -> Sheet:
    """The sheet of a grid of ``axes`` x, y, z: its titles and the size of a cell."""
    columns, rows, blocks = (labels(axis, choices, defaults.name) for axis in axes)
    varied = [axis.name for axis in axes if axis]
    sampling = defaults.sampling
    fixed = [f"base {base}"] + ([f"name {defaults.name}"] if defaults.name else [])
    fixed += [] if "checkpoint" in varied else [f"checkpoint {choices.best}"]
    fixed += [] if "prompt" in varied else [fill(choices.prompts[0], defaults.name)]
    fixed += [f"{name} {getattr(sampling, name)}" for name in ("sampler", "steps", "guidance") if name not in varied]
    fixed += [] if "seed" in varied else [f"seed {defaults.seed}"]
    fixed += [f"{name} {value:g}" for name, value in sorted(defaults.settings.items()) if name not in varied]
    shown = zip(("columns", "rows", "blocks"), axes, strict=True)
    directions = [f"{direction}: {axis.name}" for direction, axis in shown if axis]
    subtitle = " · ".join([*directions, *fixed])
    title = " · ".join(filter(None, (method, defaults.name)))
    return Sheet(title, subtitle, columns, rows, blocks, (cell, cell))


def labels(axis: Axis | None, choices: Choices, name: str) -> list[Label]:
    """The titles along one axis, ``name`` filled in; the untouched base is grey, the best checkpoint underlined."""
    if axis is None:
        return [Label("")]
    at = axis.name == "checkpoint"
    return [
        Label(fill(text, name), quiet=at and value == BASE, marked=at and value == choices.best)
        for text, value in zip(axis.labels, axis.values, strict=True)
    ]


def measured(path: Path, name: str) -> dict[tuple[str, str], dict[str, float]]:
    """The numbers of each picture in the evaluation's ``pictures.csv``, by (digest of its pixels, prompt as drawn).

    Raises InputError if the file is missing.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise InputError(path, "is missing", "run `dvc repro` so that the evaluate stage makes it") from None
    numbers_of = {}
    for row in rows:
        numbers = {column: float(text) for column, text in row.items() if column not in PICTURE and text}
        numbers_of[row["picture"], fill(row["prompt"], name)] = numbers
    return numbers_of


def manifest(
    axes: Sequence[Axis | None],
    cells: Sequence[Cell],
    paths: Sequence[Path],
    numbers: Mapping[tuple[str, str], Mapping[str, float]],
) -> dict[str, Any]:
    """The manifest: the axes, and for each cell its position, the settings that it was drawn with, and its numbers.

    ``paths`` has one picture for each cell; ``numbers`` is empty for a picture that was not evaluated.
    """
    named = {
        direction: axis and {"axis": axis.name, "values": list(axis.values), "labels": list(axis.labels)}
        for direction, axis in zip("xyz", axes, strict=True)
    }
    return {"axes": named, "cells": [_entry(cell, path, numbers) for cell, path in zip(cells, paths, strict=True)]}


def _entry(cell: Cell, path: Path, numbers: Mapping[tuple[str, str], Mapping[str, float]]) -> dict[str, Any]:
    request, picture = cell.request, pixel_digest(open_picture(path))
    entry = {"checkpoint": request.candidate.name, "prompt": request.prompt, "seed": cell.seed}
    entry |= {"sampling": request.sampling.model_dump(), "settings": dict(request.settings), "size": request.size}
    own_numbers = dict(numbers.get((picture, request.prompt), {}))
    return {"position": list(cell.position), "picture": picture, **entry, "numbers": own_numbers}
