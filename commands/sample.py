"""Draw with any base and any stack of artifacts: the command line; `commands.stacks` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from etude import names
from etude.command_line import name_or_path
from etude.core.files import REPLACE, refuse_existing
from tasks.shell import run


def sample(
    stack: Annotated[
        str,
        typer.Argument(
            help='"lora:0.8 + file.pt": methods, method@step, paths; "": the base alone', autocompletion=names.methods
        ),
    ],
    prompt: Annotated[list[str], typer.Option(help="a row each; [name] is the word of what was learned")],
    seeds: Annotated[str, typer.Option(help="a column each, such as 0-3 or 1,5")] = "0-3",
    base: Annotated[str, typer.Option(help="a base; else that of params.yaml")] = "",
    out: Annotated[Path, typer.Option(help="the picture to write")] = Path("sample.png"),
    size: Annotated[str, typer.Option(help="such as 512x768; else the base's resolution")] = "",
    steps: Annotated[int | None, typer.Option(help="else those of `sampling` in params.yaml")] = None,
    guidance: Annotated[float | None, typer.Option(help="else that of params.yaml")] = None,
    sampler: Annotated[str, typer.Option(help="another than `sampling` in params.yaml names")] = "",
    negative: Annotated[str, typer.Option(help="what to draw away from; else that of params.yaml")] = "",
    replace: Annotated[bool, typer.Option("--replace", help=REPLACE)] = False,
) -> None:
    """Draw every prompt with every seed. Nothing existing is overwritten without --replace.

    Example: etude sample "lora:0.8 + ~/sks.pt" --prompt "[name] on a red background"
    """
    refuse_existing(out, replace)
    from commands.stacks import draw

    given = {"steps": steps, "sampler": sampler or None, "negative": negative or None, "guidance": guidance}
    chosen = {key: value for key, value in given.items() if value is not None}
    draw(stack, prompt, seeds, size, name_or_path(base) if base else "", out, chosen)


if __name__ == "__main__":
    run(sample)
