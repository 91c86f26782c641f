"""Encode the training data of a long run from the files of the repository, on a machine where no stage has run.

It needs neither git nor npm nor a network; the icons are drawn with resvg-py.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Literal

import typer

from etude.core.files import replace_folder
from etude.core.params import pick
from etude.core.randomness import make_deterministic
from miniature.clip import read_clip
from miniature.kept import draw_pictures
from miniature.latents import write_latents
from miniature.render import Render
from miniature.texts import StageParams as TextParams
from miniature.texts import write_texts
from miniature.vae import read_vae
from miniature.world import FOLDER, OUT, read_world
from tasks.shell import run

MODEL = Path("models/miniature")


class StageParams(TextParams):
    """The part of params.yaml that this command reads."""

    render: Render


def prepare(device: Annotated[Literal["cpu", "cuda"], typer.Option(help="what encodes")] = "cpu") -> None:
    """Write ``out/latents`` and ``out/texts`` with the published autoencoder and CLIP, and copy these to ``out``."""
    stage_params, world = pick(FOLDER / "params.yaml", StageParams), read_world()
    make_deterministic(stage_params.encode.threads)
    for part in ("vae", "clip", "tokenizer"):
        with replace_folder(OUT / part) as folder:
            shutil.copytree(MODEL / part, folder, dirs_exist_ok=True)
    write_latents(read_vae().to(device), draw_pictures(world, stage_params.render), world)
    write_texts(read_clip().to(device), world, stage_params.words)


if __name__ == "__main__":
    run(prepare)
