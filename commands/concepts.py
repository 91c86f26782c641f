"""Merge concepts that Custom Diffusion learned separately into one artifact, in closed form and without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from etude.core.errors import InputError
from etude.core.params import Schema, pick
from tasks.shell.console import say


class StageParams(Schema):
    """The parts of params.yaml that this command reads."""

    base: str
    device: str
    threads: int


def merge_files(captions: Path, out: Path, made: Sequence[Path]) -> None:
    """Write one artifact from several; the model still draws the texts of the file ``captions`` as before."""
    stage_params, texts = pick("params.yaml", StageParams), read_captions(captions)
    from etude.base.loading import load_base
    from etude.core import artifact as artifacts
    from etude.core.randomness import make_deterministic
    from pipelines.custom_diffusion.method.merge import merge

    make_deterministic(stage_params.threads)
    base = load_base(stage_params.base, device=stage_params.device, parts=("unet", "text"))
    merged = merge(base, [artifacts.load(path) for path in made], texts)
    artifacts.save(merged, out)
    say(f"{out}: {', '.join(merged.facts['words'])}")


def read_captions(path: Path) -> list[str]:
    """The lines of a text file that are not empty; raises InputError when the file is missing or no text."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            path, f"cannot be read ({error})", "give a text file in UTF-8 with one caption on each line"
        ) from error
    return [line.strip() for line in lines if line.strip()]
