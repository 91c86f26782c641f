"""How much GPU memory stages need: counted once for the same code, parameters and base, then read from the store.

Counting imports torch; reading a remembered count does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from etude.base.settings import HasClassImages, Text
from etude.core.code import code_digests, versions
from etude.core.errors import BaseError, InputError
from etude.core.files import read_json, sha256_tree, write_json
from etude.core.method import load_method, method_names
from etude.core.mixins import base_of
from etude.core.params import MethodParams, Schema, load, pick
from etude.core.store import Part, Store, key
from etude.evaluation.settings import Evaluate
from etude.grids.settings import Grid
from etude.grids.syntax import integers
from etude.images.settings import Prepare
from etude.memory.footprint import Footprint, Setup, UncountedError
from etude.sources import family_of
from etude.training.switches import Switch, switches

LIBRARIES = ("accelerate", "diffusers", "torch", "transformers")
UNCOUNTED = "not counted yet"
CONTEXT = 500_000_000  # bytes of CUDA itself, which a count does not include
MEANING = {
    "weights": "of the base, frozen",
    "learned": "what training adds: factors, copies",
    "gradients": "",
    "optimizer": "its states",
    "activations": "of one step",
    "previews": "above all that stays",
}


class Shared(Schema):
    """The parts of params.yaml on which the memory of a build depends."""

    base: str
    precision: str
    prepare: Prepare
    text: Text


def setup_of(shared: Shared, params: MethodParams) -> Setup:
    """The setup for which a method's build is counted, from these parameters."""
    path = base_of(params, shared.base)
    chunks, rule = shared.text.chunks, shared.text.rule
    return Setup(path, family_of(path), shared.prepare.largest.resolution, shared.precision, chunks, rule)


def recalled(method: str, params: MethodParams, setup: Setup) -> Footprint | None:
    """The remembered count of a build; None if it was not counted yet. Raises UncountedError as `counted` does."""
    place = _place(method, params, setup)
    if not place.exists():
        return None
    kept = read_json(place)
    if "uncounted" in kept:
        raise UncountedError(method, kept["uncounted"])
    return Footprint(**kept)


def counted(method: str, params: MethodParams, setup: Setup) -> Footprint:
    """The memory of a build, remembered or counted now. Raises UncountedError for a method that cannot be counted."""
    if (kept := recalled(method, params, setup)) is not None:
        return kept
    from etude.memory.build import count_build

    place = _place(method, params, setup)
    try:
        footprint = count_build(load_method(method), method, params, setup)
    except UncountedError as error:
        write_json(place, {"uncounted": error.reason})
        raise
    write_json(place, asdict(footprint))
    return footprint


def _place(method: str, params: MethodParams, setup: Setup) -> Path:
    """The file of a count; everything on which the count depends is in its key."""
    about, code = {**asdict(setup), "base": setup.base.as_posix()}, _code("etude", f"pipelines/{method}/method")
    return Store("memory").path(key(method, params.recipe(), about, _configs(setup.base), *code), ".json")


def _configs(base: Path) -> str:
    """What a count reads of a base: its configurations."""
    return sha256_tree(base, (".json",)) if base.is_dir() else f"file: {base.is_file()}"


def _code(*places: str) -> list[Any]:
    """Digests of the code that counts and of the code that is counted, and versions of libraries."""
    return [{place: _digest(place) for place in places}, versions(*LIBRARIES)]


@cache
def _digest(place: str) -> str:
    """The digest of code, computed once for all stages of a plan: they share most of it."""
    return code_digests(place)[place]


def changes_that_fit(
    method: str, params: MethodParams, setup: Setup, room: int
) -> tuple[Sequence[Switch], Footprint | None]:
    """The switches, cheapest first, with which a build fits into ``room`` bytes, and its memory; None: none suffice."""
    chosen: list[Switch] = []
    least = counted(method, params, setup)
    for switch in list(switches(params, setup.precision)):
        footprint = counted(method, switch.applied(params), setup)
        if footprint.peak < least.peak:
            chosen.append(switch)
            params, least = switch.applied(params), footprint
        if fits(least, room):
            return chosen, least
    return chosen, None


def fits(footprint: Footprint, room: int) -> bool:
    """Whether a build fits into ``room`` bytes of a device."""
    return footprint.peak + CONTEXT <= room


def table(footprint: Footprint) -> list[str]:
    """The parts of a count and their sum, a line each."""
    lines = [f"{name:12}{getattr(footprint, name) / 1e9:8.2f} GB  {about}".rstrip() for name, about in MEANING.items()]
    return [*lines, f"{'at most':12}{footprint.peak / 1e9:8.2f} GB  at once"]


def refuse_too_large(method: str, room: int) -> None:
    """Raise InputError for a build that does not fit into ``room`` bytes, with what uses them and what would fit.

    A method that is not counted passes.
    """
    params: MethodParams = load(Path("pipelines", method, "params.yaml"), load_method(method).Params)
    setup = setup_of(pick("params.yaml", Shared), params)
    try:
        footprint = counted(method, params, setup)
    except UncountedError:
        return
    if fits(footprint, room):
        return
    parts = [f"{name} {getattr(footprint, name) / 1e9:.1f}" for name in MEANING if getattr(footprint, name) > 5e7]
    needs = f"needs {footprint.peak / 1e9:.1f} GB at once ({', '.join(parts)}), and the device has {room / 1e9:.1f}"
    raise InputError(f"{method}: build", needs, what_fits(method, params, setup, room))


def what_fits(method: str, params: MethodParams, setup: Setup, room: int) -> str:
    """What to do so that a build fits into ``room`` bytes."""
    chosen, then = changes_that_fit(method, params, setup, room)
    if then:
        return f"write {' and '.join(map(str, chosen))}: then it needs {then.peak / 1e9:.1f} GB"
    return "use a larger device, smaller resolutions in `prepare`, or a method that trains less"


def told(label: str, room: int) -> tuple[str, str]:
    """What a stage such as ``lora:build`` needs, such as ``7.4 GB, fits``, and what to do if it does not fit.

    ``room`` is the memory of the GPU in bytes; 0 without a GPU: then only remembered counts are used. Both texts are
    empty for a stage that uses no GPU or draws nothing. The first says so if a stage is not counted, or not yet.
    """
    method, _, stage = label.partition(":")
    stage = stage.partition("@")[0]
    if stage not in ("build", *ACTIONS) or method not in method_names():
        return "", ""
    params: MethodParams = load(Path("pipelines", method, "params.yaml"), load_method(method).Params)
    try:
        setup = setup_of(pick("params.yaml", Shared), params)
        if stage == "build":
            footprint = counted(method, params, setup) if room else recalled(method, params, setup)
        else:
            drawn = pick("params.yaml", _Drawn)
            pictures = at_once(params, drawn.evaluate, drawn.grid).get(stage, 0)
            if not pictures:
                return "", ""
            footprint = counted_drawing(setup, pictures) if room else recalled_drawing(setup, pictures)
    except UncountedError:
        return "not counted", ""
    except BaseError:  # the base is missing, and no preset fetches it
        return "no base", ""
    if footprint is None:
        return UNCOUNTED, ""
    text = f"{footprint.peak / 1e9:.1f} GB" + ("" if setup.base.exists() else ", dry")
    if not room:
        return text, ""
    if fits(footprint, room):
        return f"{text}, fits", ""
    action = what_fits(method, params, setup, room) if stage == "build" else ACTIONS[stage]
    return f"{text}, does not fit", action


def recalled_drawing(setup: Setup, pictures: int) -> Footprint | None:
    """The remembered count of drawing ``pictures`` at once with the base; None if there is none."""
    place = _drawing_place(setup, pictures)
    return Footprint(**read_json(place)) if place.exists() else None


def counted_drawing(setup: Setup, pictures: int) -> Footprint:
    """The memory of drawing ``pictures`` at once with the base, remembered or counted now."""
    if (kept := recalled_drawing(setup, pictures)) is not None:
        return kept
    from etude.memory.drawing import count_drawing

    footprint = count_drawing(setup, pictures)
    write_json(_drawing_place(setup, pictures), asdict(footprint))
    return footprint


def _drawing_place(setup: Setup, pictures: int) -> Path:
    about: list[Part] = [setup.family, setup.base.as_posix(), setup.precision, setup.chunks, setup.rule, setup.device]
    about += [pictures]
    return Store("memory").path(key("drawing", about, _configs(setup.base), *_code("etude")), ".json")


class _Drawn(Schema):
    """The parts of params.yaml that say what stages draw."""

    evaluate: Evaluate
    grid: Grid


ACTIONS = {
    "class_images": "lower `class_images.batch_size`",
    "evaluate": "write fewer `evaluate.seeds`",
    "grid": "write fewer seeds in `grid`",
}


def at_once(params: MethodParams, evaluate: Evaluate, grid: Grid) -> dict[str, int]:
    """How many pictures each stage of a method draws at once: those of one prompt that differ only by the seed."""
    axes = [axis for axis in (grid.x, grid.y, grid.z) if axis is not None and axis.axis == "seed"]
    in_a_cell = max((len(integers(str(axis.values))) for axis in axes), default=1)
    stages = {"evaluate": len(evaluate.seeds), "grid": in_a_cell}
    if isinstance(params, HasClassImages) and params.drawn:
        stages["class_images"] = params.class_images.batch_size
    return stages
