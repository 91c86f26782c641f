"""Axes with their values resolved: what `all` and `best` mean for one method, and the labels of rows and columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from etude.core.errors import ParamsError
from etude.grids import syntax
from etude.grids.settings import ALL, BASE, BEST, FINAL, NUMBERS, AxisSettings, checkpoint_steps
from etude.rendering.candidates import Candidate

Value = str | int | float
PLACE = "params.yaml: grid"


@dataclass(frozen=True)
class Choices:
    """The checkpoints and prompts from which the values of axes are chosen."""

    candidates: Mapping[str, Candidate]  # by name: "base", "000100" …, in the order of a build
    best: str  # name of the best checkpoint
    prompts: Sequence[str]  # of the set, with [name]


@dataclass(frozen=True)
class Axis:
    """One direction of a grid: the setting that varies along it, its values, and their labels."""

    name: str
    values: tuple[Value, ...]
    labels: tuple[str, ...]


def read_axis(settings: AxisSettings | None, choices: Choices) -> Axis | None:
    """The axis that ``settings`` asks for; raises ParamsError for a value that does not exist."""
    if settings is None:
        return None
    name, text = settings.axis, str(settings.values)
    values: Sequence[Value]
    if name == "checkpoint":
        values = _checkpoints(text, choices)
    elif name == "prompt":
        values = choices.prompts if text.strip() == ALL else syntax.texts(text)
    elif name == "size":
        values = [f"{width}x{height}" for width, height in map(size, syntax.texts(text))]
    elif name in ("sampler", "replace"):
        values = syntax.texts(text)
    else:
        numbers: Callable[[str], Sequence[Value]] = NUMBERS.get(name, syntax.floats)
        values = numbers(text)
    unique = tuple(dict.fromkeys(values))
    return Axis(name, unique, tuple(label(name, value, choices) for value in unique))


def label(name: str, value: Value, choices: Choices) -> str:
    """The title of a row or column: the value alone if it is clear, otherwise with the axis's name."""
    if name == "checkpoint":
        candidate = choices.candidates[str(value)]
        text = (
            "untouched base" if candidate.path is None else f"step {candidate.step}" if candidate.step else str(value)
        )
        return f"{text}, best" if value == choices.best else text
    if name in ("prompt", "sampler", "replace"):
        return str(value)
    if name == "size":
        return str(value).replace("x", " × ")
    return f"{name} {round(value, 8) if isinstance(value, float) else value}"


def size(text: str) -> tuple[int, int]:
    """``"512x768"`` as (width, height) in pixels; raises ParamsError."""
    try:
        return syntax.size(text)
    except ValueError as error:
        fault, _, action = str(error).partition(": ")
        raise ParamsError(PLACE, fault, action) from None


def _checkpoints(text: str, choices: Choices) -> list[str]:
    """Names of the candidates that ``text`` chooses: `all`, or a list of base, best, final and steps."""
    if text.strip() == ALL:
        return list(choices.candidates)
    names = {BASE: BASE, BEST: choices.best, FINAL: next(s.name for s in choices.candidates.values() if s.final)}
    steps = {candidate.step: name for name, candidate in choices.candidates.items() if candidate.path}
    chosen: list[str] = []
    for part in syntax.texts(text):
        if part in names:
            chosen.append(names[part])
            continue
        for step in checkpoint_steps([part]):
            if step not in steps:
                have = ", ".join(str(s) for s in steps if s is not None)
                raise ParamsError(
                    PLACE, f"no checkpoint was saved at step {step} (saved: {have})", "write one of these"
                )
            chosen.append(steps[step])
    return chosen
