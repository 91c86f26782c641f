"""The ``grid`` block of params.yaml: which settings a grid varies along its three axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator

from etude.base.settings import SAMPLERS
from etude.core.params import Schema, Seed, nearest
from etude.grids import syntax

ALL, BASE, BEST, FINAL = "all", "base", "best", "final"  # values of the axis `checkpoint`, in addition to steps
REPLACED = 2  # minimum number of values of `replace`: the text to search for, and one to replace it with
LIMITS = {"seed": (0, 2**63 - 1), "steps": (1, 500), "guidance": (0, 100)}
NUMBERS: dict[str, Callable[[str], list[int] | list[float]]] = {
    "seed": syntax.integers,
    "steps": syntax.integers,
    "guidance": syntax.floats,
}
TEXTS = ("checkpoint", "prompt", "sampler", "size", "replace")


Whole = Annotated[int, Field(ge=-(10**18), le=10**18)]
Number = Annotated[float, Field(ge=-1e18, le=1e18)]


class AxisSettings(Schema):
    """An axis of the grid: which setting varies along it, and its values, in A1111's syntax (`etude.grids.syntax`)."""

    axis: str = Field(
        description="checkpoint, prompt, seed, guidance, steps, sampler, size, replace, or a method's axis"
    )
    values: str | Whole | Number = Field(description="such as all, 1-5 (+2), 0-1 [6], or values separated by commas")

    @model_validator(mode="after")
    def _readable(self) -> Self:
        if self.axis in TEXTS:
            self._check_texts(syntax.texts(str(self.values)))
            return self
        try:
            numbers = NUMBERS.get(self.axis, syntax.floats)(str(self.values))  # a method's own axes are numbers
        except ValueError as error:
            raise ValueError(f"{error}; `{self.axis}` is no axis of texts{nearest(self.axis, TEXTS)}") from None
        low, high = LIMITS.get(self.axis, (-1e6, 1e6))
        for number in numbers:
            if not low <= number <= high:
                raise ValueError(f"`{number}` is not in the range of `{self.axis}`, {low} to {high}")
        return self

    def _check_texts(self, values: list[str]) -> None:
        """Raises ValueError for a text that is never a value of this axis, independent of what was built."""
        if self.axis == "checkpoint" and values != [ALL]:
            for step in checkpoint_steps(values):
                if step < 1:
                    raise ValueError(f"there is no checkpoint at step {step}: steps count from 1")
        if self.axis == "sampler":
            for name in values:
                if name not in SAMPLERS:
                    raise ValueError(f"there is no sampler `{name}`{nearest(name, SAMPLERS)}")
        if self.axis == "size":
            for text in values:
                syntax.size(text)
        if self.axis == "replace" and len(values) < REPLACED:
            raise ValueError(f"`replace` has only {values[0]!r}, the text to find: add a text to put in its place")


def checkpoint_steps(values: Sequence[str]) -> list[int]:
    """The steps among values of the axis `checkpoint`; raises ValueError for a value that is no step and no name."""
    steps = []
    for value in values:
        if value in (BASE, BEST, FINAL):
            continue
        try:
            steps += syntax.integers(value)
        except ValueError:
            names = (ALL, BASE, BEST, FINAL)
            if value == ALL:
                raise ValueError(f"`{ALL}` means every checkpoint: write it alone, without other values") from None
            raise ValueError(f"there is no checkpoint `{value}`{nearest(value, names)}") from None
    return steps


class Grid(Schema):
    """The axes: x gives columns, y rows, and z one grid for each of its values. An axis that is null is left out."""

    x: AxisSettings | None
    y: AxisSettings | None
    z: AxisSettings | None
    seed: Seed = Field(description="of every picture, if no axis varies it")
    cell: int = Field(ge=32, le=2048, description="longest side of a drawn picture, in pixels")
    limit: int = Field(ge=1, le=4000, description="megapixels; a larger grid is refused before anything is drawn")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        names = [axis.axis for axis in (self.x, self.y, self.z) if axis]
        for name in set(names):
            if names.count(name) > 1:
                raise ValueError(f"the axis `{name}` is used twice")
        return self


def refuse_unknown(grid: Grid, own: tuple[str, ...]) -> None:
    """Raise ValueError for an axis that is neither one of all methods nor one of the method's ``own``."""
    names = (*TEXTS, *NUMBERS, *own)
    for axis in (grid.x, grid.y, grid.z):
        if axis and axis.axis not in names:
            raise ValueError(f"there is no axis `{axis.axis}`{nearest(axis.axis, names)}")
