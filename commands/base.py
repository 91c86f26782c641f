"""Fetch the models that the chosen methods read, or bring one: the command line; `commands.models` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from etude.command_line import name_or_path
from etude.core.errors import ArgumentError
from tasks.shell import run


def base(
    source: Annotated[str, typer.Option("--from", help="hub id, hub id/file, or a folder or file here")] = "",
    to: Annotated[Path | None, typer.Option(help="where it goes: a path below models/")] = None,
    revision: Annotated[str, typer.Option(help="the commit, 40 hex digits, when it comes from a hub")] = "",
    half: Annotated[bool, typer.Option("--half", help="take the fp16 files where there are any")] = False,
) -> None:
    """Fetch what is missing for the chosen methods. With --from and --to: bring one model, of your choice.

    It is checked, and tracked by DVC. Nothing existing is overwritten; an interrupted download continues where it was.

    Example: etude base --from ~/photoreal.safetensors --to models/photoreal
    """
    if bool(source) != bool(to):
        raise ArgumentError("--from and --to", "belong together", "give both, or neither")
    if not source and (revision or half):
        raise ArgumentError("--revision and --half", "need --from", "give --from and --to too")
    from commands import models

    with models.alone():
        if to:
            models.bring(name_or_path(source), to, revision, half)
        else:
            models.fetch_missing()


if __name__ == "__main__":
    run(base)
