"""How much GPU memory a method needs to learn: counted in seconds, before anything is downloaded or run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etude import names
from tasks.shell import run
from tasks.shell.console import say

if TYPE_CHECKING:
    from etude.core.params import MethodParams
    from etude.memory.footprint import Footprint, Setup

CARDS = (8, 12, 16, 24, 48, 80)  # GB that graphics cards have, sold as GiB
GIB = 2**30


def memory(
    method: Annotated[str, typer.Argument(help="the method that learns", autocompletion=names.methods)],
    preset: Annotated[
        str, typer.Option(help="count with the values of this preset", autocompletion=names.presets)
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print bytes, as JSON")] = False,
) -> None:
    """Count how much GPU memory the build of METHOD needs, and where it goes; and the stages that draw.

    No GPU and no weights are needed.

    Example: etude memory lora --preset sdxl
    """
    from commands.preset import apply_preset
    from commands.rewriting import copies
    from etude.core.method import load_method
    from etude.core.params import load
    from etude.project import check

    with copies() as draft:
        if preset:
            apply_preset(preset, draft)
        project = check(draft, [method])
        params = load(draft / "pipelines" / method / "params.yaml", load_method(method).Params)
    from etude.estimates import Shared, at_once, counted, counted_drawing, setup_of

    shared = Shared(base=project.base, precision=project.precision, prepare=project.prepare, text=project.text)
    setup = setup_of(shared, params)
    footprint = counted(method, params, setup)
    pictures = at_once(params, project.evaluate, project.grid)
    drawing = {stage: counted_drawing(setup, number).peak for stage, number in pictures.items()}
    if as_json:
        say(json.dumps(_as_json(method, preset, setup, footprint) | {"drawing": drawing}))
        return
    say(_table(method, preset, params, setup, footprint))
    for stage, peak in drawing.items():
        say(f"  {stage:12}{peak / 1e9:8.2f} GB  pictures drawn at once: {pictures[stage]}")


def _table(method: str, preset: str, params: MethodParams, setup: Setup, footprint: Footprint) -> str:
    from etude.estimates import fits, table
    from etude.training.switches import switches

    about = f"{setup.precision}, {setup.resolution} px, {setup.base}"
    lines = [f"{method}{f' with the preset {preset}' if preset else ''} ({about}):"]
    *parts, sum_ = [f"  {line}" for line in table(footprint)]
    # a tenth of the card's memory is left for what is not counted: workspaces, and gaps between tensors
    fitting = [card for card in CARDS if fits(footprint, int(0.9 * card * GIB))]
    verdict = f"fits a card of {fitting[0]} GB" if fitting else f"fits no card of {CARDS[-1]} GB"
    more = [f"  less: {switch}" for switch in switches(params, setup.precision)]
    return "\n".join([*lines, *parts, f"{sum_}: {verdict}", *more])


def _as_json(method: str, preset: str, setup: Setup, footprint: Footprint) -> dict[str, Any]:
    from etude.estimates import MEANING

    parts = {name: getattr(footprint, name) for name in MEANING}
    dry = not setup.base.exists()
    return {"method": method, "preset": preset, "dry": dry, "peak_bytes": footprint.peak, "parts": parts}


if __name__ == "__main__":
    run(memory)
