"""Make masks of the pictures of an image set with a network: the command line; `commands.masking` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from etude import names
from tasks.shell import run


def masks(
    name: Annotated[str, typer.Argument(help="the image set", autocompletion=names.image_sets)],
    model: Annotated[Path, typer.Option(help="the folder of a CLIPSeg, or a file of rembg: u2net… or isnet….onnx")],
    text: Annotated[str, typer.Option(help="what CLIPSeg looks for: dog, a person")] = "",
    threshold: Annotated[float, typer.Option(min=0, max=1, help="white from this value on; 0: grey as it is")] = 0.3,
    grow: Annotated[float, typer.Option(min=0, max=0.2, help="share of each side by which white grows")] = 0.02,
    replace: Annotated[bool, typer.Option("--replace", help="make masks again that this command made")] = False,
) -> None:
    """Write a mask beside each picture of the image set NAME that has none: white is what it shows.

    Look at them, and correct them in any paint program. Methods use them if their `unmasked_weight` is below 1;
    dream_artist always does.

    Example: etude masks mydog --model models/clipseg --text dog
    """
    from commands.masking import make

    make(name, model, text, threshold, grow, replace)


if __name__ == "__main__":
    run(masks)
