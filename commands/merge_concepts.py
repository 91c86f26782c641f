"""Merge concepts that Custom Diffusion learned separately: the command line; `commands.concepts` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from etude.core.errors import InputError
from etude.core.files import REPLACE, refuse_existing
from tasks.shell import run


def merge_concepts(
    captions: Annotated[Path, typer.Argument(help="texts to draw as before, a line each: a few hundred")],
    out: Annotated[Path, typer.Argument(help="the file to write")],
    made: Annotated[list[Path], typer.Argument(help="two artifact.safetensors or more")],
    replace: Annotated[bool, typer.Option("--replace", help=REPLACE)] = False,
) -> None:
    """Write OUT from the artifacts MADE, two or more. Nothing existing is overwritten without --replace.

    CAPTIONS is a text file with a line for each text that the model should still draw as before: a few hundred, with
    many different words.

    Example: etude merge-concepts captions.txt merged.safetensors owl.safetensors crab.safetensors
    """
    refuse_existing(out, replace)
    if len(made) < 2:
        raise InputError("artifacts", "are fewer than two", "give the path of each artifact.safetensors to merge")
    from commands.concepts import merge_files

    merge_files(captions, out, made)


if __name__ == "__main__":
    run(merge_concepts)
