"""The ``grid`` block of params.yaml: what a grid turns along its three axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from etude.grids import syntax
from etude.params import Schema, nearest

ALL = "all"
NUMBERS: dict[str, Callable[[str], list[int] | list[float]]] = {
    "seed": syntax.integers,
    "steps": syntax.integers,
    "guidance": syntax.floats,
}
TEXTS = ("checkpoint", "prompt", "sampler", "size", "replace")


class AxisSettings(Schema):
    """One axis: what it turns, and the values in A1111's syntax (`etude.grids.syntax`)."""

    axis: str = Field(description="checkpoint, prompt, seed, guidance, steps, sampler, size, replace, or a method's")
    values: str | int | float = Field(description="such as all, 1-5 (+2), 0-1 [6], or values by commas")

    @model_validator(mode="after")
    def _readable(self) -> Self:
        if self.axis in TEXTS:
            syntax.texts(str(self.values))
            return self
        try:
            NUMBERS.get(self.axis, syntax.floats)(str(self.values))  # a method's own axes are numbers
        except ValueError as error:
            raise ValueError(f"{error}; `{self.axis}` is no axis of texts{nearest(self.axis, TEXTS)}") from None
        return self


class Grid(Schema):
    """Columns (x), rows (y), and one grid for each z; null leaves an axis out."""

    x: AxisSettings | None
    y: AxisSettings | None
    z: AxisSettings | None
    seed: NonNegativeInt = Field(description="of every picture, where no axis turns it")
    cell: int = Field(ge=32, le=2048, description="longest side of a drawn picture, in pixels")
    limit: PositiveInt = Field(description="megapixels; a larger grid is refused before anything is drawn")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        names = [axis.axis for axis in (self.x, self.y, self.z) if axis]
        for name in set(names):
            if names.count(name) > 1:
                raise ValueError(f"the axis `{name}` stands twice")
        return self


def refuse_unknown(grid: Grid, own: tuple[str, ...]) -> None:
    """Raise ValueError for an axis that is neither general nor one of the method's ``own``."""
    known = (*TEXTS, *NUMBERS, *own)
    for axis in (grid.x, grid.y, grid.z):
        if axis and axis.axis not in known:
            raise ValueError(f"there is no axis `{axis.axis}`{nearest(axis.axis, known)}")
