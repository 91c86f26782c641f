"""Run the graph of stages: `etude run [targets]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from etude import names
from etude.command_line import command_line
from etude.core.errors import InputError
from etude.core.workers import cores
from flows.terminal import devices, end_of, find_root, leave, refuse_runner, say, told_in_short

if TYPE_CHECKING:
    from flows.plan import Stage


def main(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            help="Stages, methods, groups or outputs; without any, all that plain `dvc repro` reaches.",
            autocompletion=names.targets,
        ),
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Stages at once.", show_default="one a core")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs to hand out.", show_default="all there are")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run stages again that are up to date.")] = False,
    pools: Annotated[
        bool, typer.Option("--pools", help="Let workers on other machines run the stages: see flows/README.md.")
    ] = False,
    runner: Annotated[
        str, typer.Option(help="What Prefect runs tasks on: threads, dask or ray; a cluster as dask@tcp://host:8786.")
    ] = "threads",
    dry: Annotated[bool, typer.Option("--dry", help="Only say what would run, and why.")] = False,
) -> None:
    """Bring stages up to date, independent ones at once, each as a Prefect task. What is up to date is left alone.

    Example: etude run lora --jobs 2
    """
    with told_in_short("stopped: the next run goes on from here"):
        root = find_root(Path.cwd())
        refuse_runner(runner)
        if dry:
            show_plan(root, targets or (), jobs or cores(), force)
        else:
            if pools and force:
                raise InputError(
                    "--force",
                    "has no use with --pools: workers take results that exist",
                    "leave out --force or --pools",
                )
            if pools and runner != "threads":
                raise InputError(
                    f"--runner {runner}",
                    "has no use with --pools: workers run the stages",
                    "leave out --runner or --pools",
                )
            run(root, targets or (), jobs or cores(), devices(gpus), force, pools, runner)


def run(
    root: Path, targets: Sequence[str], jobs: int, gpus: Sequence[str], force: bool, pools: bool, runner: str
) -> None:
    """Run the flow with this repository's Prefect server, or with the one that PREFECT_API_URL names."""
    from flows import plan, server

    ready = server.connect(root)
    plan.load(root, targets)  # before the server is ready: a wrong target or a broken dvc.yaml is reported at once
    from flows import runners
    from flows.board import Board, use
    from flows.graph import repro

    flow = repro.with_options(task_runner=runners.make(runner, jobs + len(gpus)))
    where = ready()
    if pools:
        from flows.machines import shared_commit

        shared_commit(root)  # refuses uncommitted changes before anything begins
    use(Board(Console(highlight=False), where))
    state = end_of(lambda: flow(str(root), list(targets), jobs, list(gpus), force, pools, return_state=True))
    if not state.is_completed():
        leave(state.message or f"the flow ended {state.name}")


def show_plan(root: Path, targets: Sequence[str], jobs: int, force: bool) -> None:
    """Print what would run, why, and an estimate of the time from earlier runs here."""
    from flows import durations, plan
    from flows.board import duration
    from flows.memory import needs

    lacking: list[str] = []
    stages = plan.load(root, targets, force=force, lacking=lacking)
    todo = plan.pending(stages)
    took, memory = durations.recall_all(root, todo), needs(root, todo)
    console, last = Console(), {name: duration(seconds) for name, seconds in took.items()}
    width = console.width if console.is_terminal else None
    for row in plan_lines(todo, last, memory.told, width) if todo else ():
        console.print(row, soft_wrap=True)
    console.print(f"{len(todo)} of {len(stages)} stages to run, {len(stages) - len(todo)} up to date", highlight=False)
    if lacking:
        say(str(InputError(*plan.without(lacking))))
    for line in memory.lines:
        say(line)
    if took:
        about = duration(durations.estimate(stages, took, jobs))
        unknown = f", not counting the {len(todo) - len(took)} never run here" if len(took) < len(todo) else ""
        console.print(f"about {about} with {jobs} at once{unknown}", highlight=False)


def plan_lines(
    todo: Mapping[Stage, Sequence[str]], took: Mapping[str, str], memory: Mapping[str, str], width: int | None
) -> list[Text]:
    """A line for each stage that would run, after a line of titles; columns that would be empty are left out.

    ``width`` is that of the terminal, in characters: longer reasons are cut. None: reasons are not cut.
    """
    known = {"last time": took, "memory": memory}
    columns = [["stage", *(stage.label for stage in todo)]]
    for title, told in known.items():
        if any(told.values()):
            columns.append([title, *(told.get(stage.name, "") for stage in todo)])
    widths = [max(map(cell_len, column)) for column in columns]
    lines: list[Text] = []
    for *cells, why in zip(*columns, ["why", *map("; ".join, todo.values())], strict=True):
        row = Text("  ".join([*map(set_cell_size, cells, widths), why]), style="" if lines else "bold")
        if width:
            row.truncate(width, overflow="ellipsis")
        lines.append(row)
    return lines


if __name__ == "__main__":
    command_line(main)
