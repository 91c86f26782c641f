"""Check all parameters of the project, or of drafts of it, before anything is run with them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from etude.errors import ParamsError
from tasks import project, run
from tasks.console import say


def check(
    folders: Annotated[list[Path] | None, typer.Argument(help="Folders with params.yaml and pipelines/.")] = None,
) -> None:
    """Check the params files of FOLDERS, or of this repository; one error lists the faults of all."""
    faults = []
    for folder in folders or [Path()]:
        try:
            project.check(folder)
        except ParamsError as error:
            faults.append(str(error) if folder == Path() else f"{folder.name}: {error}")
    if faults:
        raise ParamsError("params", "\n       ".join(faults), "correct them")
    say("all parameters are fine")


if __name__ == "__main__":
    run(check)
