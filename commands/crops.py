"""Draw every crop of an image set on its picture, so that a person sees what is cut off: the command line."""

from __future__ import annotations

from typing import Annotated

import typer

from etude import names
from tasks.shell import run
from tasks.shell.console import say


def crops(
    name: Annotated[
        str,
        typer.Argument(help="the image set; `dvc repro` or *prepare* has cut it", autocompletion=names.image_sets),
    ],
) -> None:
    """Draw contact sheets of the image set NAME: each picture, with what its crop leaves out darkened.

    The pictures that lose most come first. Faces that `crop: faces` found are outlined.

    Example: etude crops mydog
    """
    from commands.contact_sheet import draw_sheets

    for path in draw_sheets(name):
        say(f"{path}")


if __name__ == "__main__":
    run(crops)
