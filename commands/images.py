"""Bring pictures in, and let methods learn from them: the command line; `commands.pictures` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from etude import names
from etude.core.files import REPLACE
from tasks.shell import run


def images(
    source: Annotated[Path, typer.Option("--from", help="The folder with pictures, captions and masks.")],
    name: Annotated[
        str,
        typer.Option(
            "--set", help="What the image set is called: small letters, digits, _.", autocompletion=names.image_sets
        ),
    ],
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", help="A method that shall learn from it.", autocompletion=names.methods),
    ] = None,
    word: Annotated[str, typer.Option("--name", help="The word for what is learned; else that of the set.")] = "",
    kind: Annotated[str, typer.Option("--class", help="The kind of thing that it is: dog, woman, vase.")] = "",
    replace: Annotated[bool, typer.Option("--replace", help=REPLACE)] = False,
) -> None:
    """Copy the pictures of a folder into the project, with their captions and masks, as the image set NAME.

    With methods, `dvc repro` builds these from now on, and the texts in their params files are set to fit it.

    Example: etude images --from ~/photos --set mydog --name rex --class dog --method lora
    """
    from commands.pictures import bring

    bring(source, name, methods or [], word, kind, replace)


if __name__ == "__main__":
    run(images)
