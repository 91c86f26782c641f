"""Run a past revision again in another folder, and compare the outputs: `etude reproduce v1`."""

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
    revision: Annotated[str, typer.Argument(help="A commit, tag or branch, or the name of a DVC experiment.")],
    targets: Annotated[
        list[str] | None, typer.Argument(help="As in `etude run`.", autocompletion=names.targets)
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Stages at once.", show_default="one a core")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs to hand out.", show_default="all there are")] = None,
    force: Annotated[bool, typer.Option("--force", help="Compute everything again, with an empty run-cache.")] = False,
    tolerance: Annotated[float, typer.Option(min=0, help="What metrics may differ by, relative.")] = 1e-3,
) -> None:
    """Run a revision's pipeline again in a folder of its own; your files are not touched.

    Every output is then identical, within tolerance, or different, and what differs is named. Exit code 0: the same.

    Example: etude reproduce HEAD --force
    """
    with told_in_short("stopped", fault=2):
        root = find_root(Path.cwd())
        conclude(*reproduce(root, revision, targets or [], jobs or cores(), devices(gpus), force, tolerance))


def reproduce(
    root: Path, revision: str, targets: list[str], jobs: int, gpus: list[str], force: bool, tolerance: float
) -> tuple[str, bool]:
    """Run the flow; returns its message, and whether everything is the same."""
    from flows import server, worktree

    ready = server.connect(root)
    worktree.resolve(root, revision)  # before the server is ready: an unknown name is reported at once
    from flows import experiments
    from flows.board import Board, use

    use(Board(Console(highlight=False), ready()))
    given = (revision, str(root), targets, jobs, gpus, force, tolerance)
    state = end_of(lambda: experiments.reproduce(*given, return_state=True))
    return state.message or "", state.is_completed()


if __name__ == "__main__":
    command_line(main)
