"""Merge concepts that Custom Diffusion learned apart into one artifact, in closed form and without training.

python -m commands.merge_concepts captions.txt merged.safetensors owl.safetensors crab.safetensors
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from etude.core.errors import InputError
from etude.core.files import REPLACE, refuse_existing
from etude.core.params import Schema, pick
from tasks.shell import run
from tasks.shell.console import say

__all__ = ["Dials", "merge_concepts"]


class Dials(Schema):
    """The parts of params.yaml that this command reads."""

    base: str
    device: str
    threads: int


def merge_concepts(
    captions: Path,
    out: Path,
    made: list[Path],
    replace: Annotated[bool, typer.Option("--replace", help=REPLACE)] = False,
) -> None:
    """Write OUT from the artifacts MADE, two or more. Nothing existing is overwritten without --replace.

    CAPTIONS is a text file with a line for each text that the model should go on drawing as before: a few hundred, with
    many different words.
    """
    dials = pick("params.yaml", Dials)
    refuse_existing(out, replace)
    if len(made) < 2:
        raise InputError("artifacts", "are fewer than two", "name every artifact.safetensors to merge")
    texts = read_captions(captions)
    from etude.base.loading import load_base
    from etude.core import artifact as artifacts
    from etude.core.randomness import make_deterministic
    from pipelines.custom_diffusion.method.merge import merge

    make_deterministic(dials.threads)
    base = load_base(dials.base, device=dials.device, parts=("unet", "text"))
    merged = merge(base, [artifacts.load(path) for path in made], texts)
    artifacts.save(merged, out)
    say(f"{out}: {', '.join(merged.facts['words'])}")


def read_captions(path: Path) -> list[str]:
    """The lines of a text file that say something; raises InputError when it is missing or no text."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, f"cannot be read ({error})", "name a text file in UTF-8, a caption a line") from error
    return [line.strip() for line in lines if line.strip()]


if __name__ == "__main__":
    run(merge_concepts)
