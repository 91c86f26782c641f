"""Draw with any base and any stack of artifacts, your own or from others, as one labelled picture."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from etude.base.settings import Sampling, Text
from etude.command_line import name_or_path
from etude.core.errors import ArgumentError, BaseError, FormatError, InputError, ParamsError
from etude.core.method import load_method, method_names
from etude.core.params import Schema, nearest, pick, validate
from etude.core.placeholder import NAME, fill
from etude.grids import syntax
from etude.rendering.built import find_path
from tasks.shell.console import say

if TYPE_CHECKING:
    from etude.base.base import Base
    from etude.core.artifact import Artifact

STACK = "the stack"


class StageParams(Schema):
    """The parts of params.yaml that give values which the command line does not set."""

    base: str
    device: str
    precision: str
    sampling: Sampling
    text: Text
    threads: int


class Steering(Schema):
    """What the file of an aesthetic embedding does not contain: its CLIP, and the learning rate of the steering."""

    clip: str
    learning_rate: float


class Layer(NamedTuple):
    """One artifact of a stack, and how it is applied."""

    text: str  # as typed
    artifact: Artifact
    settings: dict[str, float]


def draw(
    stack: str, prompts: Sequence[str], seeds: str, size: str, base: str, out: Path, given: dict[str, Any]
) -> None:
    """Draw every prompt with every seed, as one picture; ``given`` overrides values of `sampling` in params.yaml.

    Raises an EtudeError; for faults of the command line, before anything is loaded.
    """
    stage_params = pick("params.yaml", StageParams)
    sampling = _sampling(stage_params.sampling, given)
    numbers, sides = _numbers(seeds), _size(size)
    parts = [split_layer(text) for text in re.split(r"\s+\+\s+", stack.strip()) if text]
    from etude.base.base import DTYPES
    from etude.base.loading import load_base
    from etude.core.randomness import make_deterministic

    make_deterministic(stage_params.threads)
    layers = ordered([open_layer(*part) for part in parts])
    precision, reading = DTYPES[stage_params.precision], stage_params.text
    loaded = load_base(base or stage_params.base, device=stage_params.device, dtype=precision, reading=reading)
    name = _name(layers, prompts)
    texts = [fill(text, name) for text in prompts]
    with ExitStack() as undo, TemporaryDirectory() as folder:
        for layer in layers:
            try:
                undo.enter_context(_applied(layer, loaded))
            except (BaseError, FormatError) as error:  # a method does not know from which file its artifact is
                raise type(error)(f"{layer.text}: {error.place}", error.fault, error.action) from error
        worded = sampling.model_copy(update={"negative": fill(sampling.negative, name)})
        paths = _draw(loaded, texts, numbers, worded, sides, Path(folder))
        _paint(stack, loaded, texts, numbers, worded, paths, out)
    say(f"{out}: {len(texts)} × {len(numbers)} pictures by {loaded.path}{f' with {stack}' if stack else ''}")


def _name(layers: Sequence[Layer], prompts: Sequence[str]) -> str:
    """The word for [name]: that of the first layer with one; raises InputError if prompts need one and none has it."""
    name = next((str(layer.artifact.facts["name"]) for layer in layers if "name" in layer.artifact.facts), "")
    if not name and any(NAME in text for text in prompts):
        raise InputError(STACK, "contains no artifact with a word for [name]", "write the prompt without [name]")
    return name


def split_layer(text: str) -> tuple[str, dict[str, float] | float | None]:
    """The name of a layer, and its number (``:0.8``) or numbers (``:strength=0.8,steps=5``); raises InputError."""
    what, colon, tail = text.rpartition(":")
    if not colon or "/" in tail:
        return text, None
    try:
        if "=" not in tail:
            return what, finite(tail)
        pairs = (item.partition("=") for item in tail.split(","))
        return what, {key.strip(): finite(value) for key, _, value in pairs}
    except ValueError:
        fault = f"`{tail}` after the colon is no number"
        raise InputError(text, fault, "write name:0.8 or name:setting=0.8") from None


def finite(text: str) -> float:
    """A number; raises ValueError for any other text, nan and inf among them."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def open_layer(what: str, numbers: dict[str, float] | float | None) -> Layer:
    """The artifact of a method (``lora``, ``lora@80`` after 80 steps), or in a file; raises an EtudeError."""
    from etude.base.whole import read_model
    from etude.formats.kinds import open_any

    path = find_path(name_or_path(what, method_names()))
    artifact = open_any(path, pairs=True, whole=read_model)[1]
    if artifact.method == "aesthetic_gradient" and "projection" not in artifact.tensors:
        artifact = _steerable(artifact)
    if artifact.method not in method_names():
        raise FormatError(path, f"was made by the method {artifact.method}, which is not here", "give another artifact")
    return Layer(what, artifact, _settings(what, artifact.method, numbers))


def _steerable(artifact: Artifact) -> Artifact:
    """Complete an aesthetic embedding from others, which is only a tensor, with what steering texts needs."""
    from etude.base.vision import text_projection

    own = pick("pipelines/aesthetic_gradient/params.yaml", Steering)
    facts = artifact.facts | {"clip": own.clip, "learning_rate": own.learning_rate, "negative": False}
    tensors = {**artifact.tensors, "projection": text_projection(Path(own.clip))}
    return dataclasses.replace(artifact, tensors=tensors, facts=facts)


def _settings(what: str, method: str, numbers: dict[str, float] | float | None) -> dict[str, float]:
    """The keyword arguments for the method's `apply`."""
    axes = load_method(method).axes
    if isinstance(numbers, dict):
        for name in numbers:
            if name not in axes:
                fault = f"{method} has no setting `{name}`{nearest(name, axes)}"
                raise InputError(what, fault, f"use {', '.join(axes) or 'no setting: this method has none'}")
        return {**axes, **numbers}
    if numbers is None:
        return dict(axes)
    if "strength" not in axes:
        action = f"write one of its settings, such as {what}:{next(iter(axes))}=…" if axes else "leave the number out"
        raise InputError(what, f"a number alone is the strength, which {method} does not have", action)
    return {**axes, "strength": numbers}


def ordered(layers: Sequence[Layer]) -> list[Layer]:
    """Layers with whole weights first, since they replace what was applied before; raises InputError for two."""
    from etude.formats import WHOLE
    from etude.formats.kinds import FIRST, kind_of

    whole = [layer for layer in layers if kind_of(layer.artifact) == WHOLE]
    if len(whole) > 1:
        both = " and ".join(layer.text for layer in whole[:2])
        raise InputError(
            both, "are two whole models, of which only one can be used", "merge them first (pipelines/model_merge)"
        )
    place = {kind: number for number, kind in enumerate(FIRST)}
    return sorted(layers, key=lambda layer: place.get(kind_of(layer.artifact), len(FIRST)))


def _applied(layer: Layer, base: Base) -> Any:
    """The method's context; raises BaseError when the artifact is of another family than the base."""
    method = load_method(layer.artifact.method)
    family = layer.artifact.facts.get("family", base.family)
    if family != base.family:
        raise BaseError(
            base.path, f"is of the family {base.family}, and {layer.text} is made for {family}", "choose another --base"
        )
    if reason := method.unsupported.get(family):
        fault = f"is {family}, which {layer.artifact.method} does not support: {reason}"
        raise BaseError(base.path, fault, "choose another --base")
    return method.apply(layer.artifact, base, **layer.settings)


def _sampling(usual: Sampling, given: dict[str, Any]) -> Sampling:
    """The sampling settings, with those of the command line; raises ArgumentError."""
    try:
        return validate(usual.model_dump() | given, Sampling, "command line")
    except ParamsError as error:
        raise ArgumentError("command line", error.fault, "see `etude sample --help`") from None


def _numbers(text: str) -> list[int]:
    try:
        numbers = list(dict.fromkeys(syntax.integers(text)))
    except ValueError as error:
        raise ArgumentError("--seeds", str(error), "write 0-3 or 1,5") from None
    if min(numbers) < 0:
        raise ArgumentError("--seeds", f"{min(numbers)} is not a seed", "write numbers from 0 on, such as 0-3 or 1,5")
    return numbers


def _size(text: str) -> tuple[int, int] | None:
    from etude.grids.axes import size

    try:
        return size(text) if text else None
    except ParamsError as error:  # the error names params.yaml, but this size is from the command line
        raise ArgumentError("--size", error.fault, error.action) from None


def _draw(
    base: Base, texts: list[str], seeds: list[int], sampling: Sampling, size: tuple[int, int] | None, folder: Path
) -> dict[tuple[int, int, int], Path]:
    """One file for each cell of the picture: (column of a seed, row of a prompt, 0)."""
    from PIL import Image

    from etude.diffusion.sample import generate

    width, height = size or (base.resolution, base.resolution)
    paths = {}
    for row, text in enumerate(texts):
        asked = sampling.model_dump()
        pictures = generate(base, [text] * len(seeds), seeds=seeds, width=width, height=height, **asked)
        for column, pixels in enumerate(pictures.cpu().numpy()):
            paths[column, row, 0] = folder / f"{row}-{column}.png"
            Image.fromarray(pixels).save(paths[column, row, 0])
    return paths


def _paint(
    stack: str,
    base: Base,
    texts: list[str],
    seeds: list[int],
    sampling: Sampling,
    paths: dict[tuple[int, int, int], Path],
    out: Path,
) -> None:
    from PIL import Image

    from etude.core.files import atomic_path
    from etude.grids.drawing import paint
    from etude.grids.layout import Label, Layout, Sheet

    with Image.open(paths[0, 0, 0]) as first:
        cell = first.size
    drawn = f"{sampling.sampler}, {sampling.steps} steps, guidance {sampling.guidance:g}"
    about = [f"base {base.path.as_posix()}", drawn]
    if stack:
        about.insert(0, stack)  # not in the title: these lines are wrapped, and a title is not
    if sampling.negative:
        about.append(f"negative: {sampling.negative}")
    rows, columns = [Label(text) for text in texts], [Label(f"seed {seed}") for seed in seeds]
    title = "a stack of artifacts" if stack else "untouched base"
    sheet = Sheet(title, " · ".join(about), columns, rows, [Label("")], cell)
    with atomic_path(out) as temporary:
        paint(Layout(sheet), paths).save(temporary, format="PNG")
