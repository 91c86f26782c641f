"""Try parameter values side by side: `etude sweep -S pipelines/lora/params.yaml:rank=4,8`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from etude import names
from etude.command_line import command_line
from etude.core.workers import cores
from flows.terminal import conclude, devices, end_of, find_root, told_in_short


def main(
    overrides: Annotated[
        list[str],
        typer.Option("--set-param", "-S", help="`file:key=value,value`, as DVC's -S; several make a grid."),
    ],
    targets: Annotated[
        list[str] | None, typer.Argument(help="As in `etude run`.", autocompletion=names.targets)
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Stages at once.", show_default="one a core")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs to hand out.", show_default="all there are")] = None,
    name: Annotated[str, typer.Option(help="What the experiments' names and the page's begin with.")] = "sweep",
) -> None:
    """Run every combination of parameter values as a DVC experiment of its own; your files are not touched.

    A stage that several combinations share runs once. At the end a page compares the experiments; `dvc exp show` lists
    them.

    Example: etude sweep -S pipelines/lora/params.yaml:rank=4,8,16
    """
    with told_in_short("stopped: what was finished is kept, and the next sweep finds it"):
        root = find_root(Path.cwd())
        conclude(*sweep(root, overrides, targets or [], jobs or cores(), devices(gpus), name))


def sweep(
    root: Path, overrides: list[str], targets: list[str], jobs: int, gpus: list[str], name: str
) -> tuple[str, bool]:
    """Run the flow; returns its message, and whether every combination was kept."""
    from flows import drafts, repository, server

    drafts.check(root, repository.combinations(overrides))
    ready = server.connect(root)
    from flows import experiments
    from flows.board import Board, use

    use(Board(Console(highlight=False), ready()))
    state = end_of(lambda: experiments.sweep(overrides, str(root), targets, jobs, gpus, name, return_state=True))
    return state.message or "", state.is_completed()


if __name__ == "__main__":
    command_line(main)
