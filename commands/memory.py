"""How much GPU memory a method needs to learn: counted in a minute, before anything is downloaded or run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etude import names
from tasks.shell import run
from tasks.shell.console import say

if TYPE_CHECKING:
    from etude.core.params import MethodParams
    from etude.memory.build import Footprint, Setup
    from etude.project import Project

CARDS = (8, 12, 16, 24, 48, 80)  # GB that graphics cards have
SPARE = 0.1  # share of a card, and 0.5 GB: CUDA's context, workspaces and fragmentation, which are not counted
UNKNOWN = 20  # pictures, where the set is not here yet
MEANING = {
    "weights": "of the base, frozen",
    "data": "latents and texts",
    "learned": "what training adds: factors, copies",
    "gradients": "",
    "optimizer": "its states",
    "activations": "of one step",
    "previews": "above all that stays",
}


def memory(
    method: Annotated[str, typer.Argument(help="the method that learns", autocompletion=names.methods)],
    preset: Annotated[
        str, typer.Option(help="count with the values of this preset", autocompletion=names.presets)
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print bytes, as JSON")] = False,
) -> None:
    """Count how much GPU memory the build of METHOD needs, and where it goes. No GPU and no weights are needed.

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
    setup = _setup(project, params)
    from etude.memory.build import count_build

    footprint = count_build(load_method(method), method, params, setup)
    if as_json:
        say(json.dumps(_as_json(method, preset, setup, footprint)))
    else:
        say(_table(method, preset, setup, footprint))


def _setup(project: Project, params: MethodParams) -> Setup:
    from etude.core.mixins import base_of
    from etude.memory.build import Setup
    from etude.sources import family_of

    path, prepare = base_of(params, project.base), project.prepare
    pictures = _pictures(params.set, Path(project.sets[params.set]), project)
    return Setup(path, family_of(path), prepare.resolution, pictures or UNKNOWN, project.precision)


def _pictures(name: str, folder: Path, project: Project) -> int:
    """How many the set has prepared; where it is not prepared yet, its files, with their mirrored copies."""
    from etude.core.files import read_json
    from etude.images.folder import list_pictures

    if (made := Path("data", name, "prepared", "images.json")).exists():
        return len(read_json(made)["images"])
    return len(list_pictures(folder)) * (2 if project.prepare.flip else 1) if folder.is_dir() else 0


def _table(method: str, preset: str, setup: Setup, footprint: Footprint) -> str:
    about = f"{setup.precision}, {setup.resolution} px, {setup.pictures} pictures, {setup.base}"
    lines = [f"{method}{f' with the preset {preset}' if preset else ''} ({about}):"]
    for name, meaning in MEANING.items():
        lines.append(f"  {name:12}{getattr(footprint, name) / 1e9:8.2f} GB  {meaning}".rstrip())
    fitting = [card for card in CARDS if footprint.peak / 1e9 + 0.5 <= card * (1 - SPARE) * 1.0737]  # sold as GiB
    fits = f"fits a card of {fitting[0]} GB" if fitting else f"fits no card of {CARDS[-1]} GB"
    return "\n".join([*lines, f"  {'at most':12}{footprint.peak / 1e9:8.2f} GB  at once: {fits}"])


def _as_json(method: str, preset: str, setup: Setup, footprint: Footprint) -> dict[str, Any]:
    parts = {name: getattr(footprint, name) for name in MEANING}
    dry = not setup.base.exists()
    return {"method": method, "preset": preset, "dry": dry, "peak_bytes": footprint.peak, "parts": parts}


if __name__ == "__main__":
    run(memory)
