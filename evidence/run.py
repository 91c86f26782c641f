"""Measure the claims of the founding notes: `etude evidence`. All of it takes hours; --only measures parts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from etude import names
from etude.command_line import command_line
from etude.core.workers import cores
from flows.terminal import conclude, devices, end_of, find_root, say, told_in_short


def main(
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Methods, image sets, claims, experiments.", show_default="all", autocompletion=names.methods_and_sets
        ),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many of the seeds.", show_default="all")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Stages at once.", show_default="one a core")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs to hand out.", show_default="all there are")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set-param", "-S", help="`file:key=value` for all of it: only to try, goes to logs/evidence."),
    ] = None,
    dry: Annotated[bool, typer.Option("--dry", help="Check everything and write the page; run nothing.")] = False,
) -> None:
    """Run the experiments of evidence/claims.yaml that are not measured yet, and write evidence/results.md.

    What was measured on the present code, data and parameters is not run again; a stopped run resumes next time.

    Example: etude evidence --only hypernetwork --seeds 1 --dry
    """
    with told_in_short("stopped: what was measured is kept, and the next run goes on from there"):
        root = find_root(Path.cwd())
        wanted = [word for text in only or [] for word in text.replace(",", " ").split()]
        conclude(*measure(root, wanted, seeds, jobs or cores(), devices(gpus), overrides or [], dry))


def measure(
    root: Path, only: list[str], seeds: int | None, jobs: int, gpus: list[str], also: list[str], dry: bool
) -> tuple[str, bool]:
    """Run what is missing; return the message, and whether all of it was measured."""
    from evidence.study import STUDY, prepare
    from flows import server

    ready = None if dry else server.connect(root)  # the server starts while everything is checked
    study = prepare(root, only, seeds, also)
    study.write()
    say(study.told())
    if not ready or not study.todo:
        return study.page, True
    where = ready()
    from evidence.flow import evidence
    from flows.board import Board, use

    use(Board(Console(highlight=False), where))
    STUDY.set(study)
    state = end_of(lambda: evidence(jobs, gpus, return_state=True))
    return state.message or "", state.is_completed()


if __name__ == "__main__":
    command_line(main)
