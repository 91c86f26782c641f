"""Run the graph of stages: `python -m flows.run [targets]`."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from etude.command_line import command_line
from etude.core.errors import EtudeError, InputError

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State


def main(
    targets: Annotated[
        list[str] | None,
        typer.Argument(help="Stages, methods, groups or outputs; without any, all that plain `dvc repro` reaches."),
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
    """Bring stages up to date, independent ones at once, each as a Prefect task. What is up to date is left alone."""
    with told_in_short("stopped: the next run goes on from here"):
        root = find_root(Path.cwd())
        if dry:
            show_plan(root, targets or (), jobs or cores(), force)
        else:
            if pools and force:
                raise InputError("--force", "workers take what is already made", "leave out --force or --pools")
            if pools and runner != "threads":
                raise InputError(f"--runner {runner}", "workers run the stages", "leave out --runner or --pools")
            run(root, targets or (), jobs or cores(), devices(gpus), force, pools, runner)


def run(
    root: Path,
    targets: Sequence[str],
    jobs: int,
    gpus: Sequence[str],
    force: bool = False,
    pools: bool = False,
    runner: str = "threads",
) -> None:
    """Run the flow against this repository's Prefect server, or the one that PREFECT_API_URL names."""
    from flows import plan, server

    ready = server.connect(root)
    plan.load(root, targets)  # while the server starts: a wrong target or a broken dvc.yaml shows at once
    from flows import runners
    from flows.board import Board, use
    from flows.graph import repro

    flow = repro.with_options(task_runner=runners.make(runner, jobs + len(gpus)))
    where = ready()
    if pools:
        from flows.machines import shared_commit

        shared_commit(root)  # what no worker would see is told before anything begins
    use(Board(Console(highlight=False), where))
    state = end_of(lambda: flow(str(root), list(targets), jobs, list(gpus), force, pools, return_state=True))
    if not state.is_completed():
        leave(state.message or f"the flow ended {state.name}")


def end_of(flow: Callable[[], State[Any]]) -> State[Any]:
    """Run a flow; the state that it ends in.

    Raises KeyboardInterrupt where it was stopped, the EtudeError that ended it, InputError where the server is gone.
    """
    from httpx import HTTPError

    interrupted = note_interrupts()
    try:
        state = flow()
        cause = state.result(raise_on_failure=False) if state.is_failed() else None
        if isinstance(cause, EtudeError | HTTPError) and not interrupted:
            raise cause
    except HTTPError as error:
        fault = f"it went away while the flow ran ({error})"
        raise InputError("the Prefect server", fault, "run this again: what is finished is kept") from error
    if interrupted:
        raise KeyboardInterrupt
    return state


def note_interrupts() -> list[int]:
    """A list that grows with every Ctrl-C: Prefect sometimes makes a state of the KeyboardInterrupt that it raises."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, note)
    return seen


def show_plan(root: Path, targets: Sequence[str], jobs: int, force: bool) -> None:
    """Print what would run, why, and about how long it takes after what it took here before."""
    from flows import durations, plan
    from flows.board import duration

    stages = plan.load(root, targets, force=force)
    todo = plan.pending(stages)
    took = durations.recall_all(root, todo)
    table = Table("stage", "why", "last time", box=None, header_style="bold", pad_edge=False)
    for stage in todo:
        last = duration(took[stage.name]) if stage.name in took else ""
        table.add_row(Text(stage.label), Text("; ".join(todo[stage])), last)
    console = Console()
    if todo:
        console.print(table)
    console.print(f"{len(todo)} of {len(stages)} stages to run, {len(stages) - len(todo)} up to date", highlight=False)
    if took:
        about = duration(durations.estimate(stages, took, jobs))
        unknown = f", not counting the {len(todo) - len(took)} never run here" if len(took) < len(todo) else ""
        console.print(f"about {about} with {jobs} at once{unknown}", highlight=False)


def find_root(folder: Path) -> Path:
    """The repository that a folder lies in: the nearest folder above with a `.dvc`. Raises InputError without one."""
    for root in (folder, *folder.parents):
        if (root / ".dvc").is_dir():
            return root
    raise InputError(folder, "there is no DVC repository here", "change into one, or make one with `dvc init`")


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def devices(count: int | None) -> list[str]:
    """Ids of the GPUs to hand out: what CUDA_VISIBLE_DEVICES allows, else all of nvidia-smi's; at most `count`."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        found = [device for device in allowed.split(",") if device.strip()]
    elif smi := which("nvidia-smi"):
        listed = subprocess.run([smi, "-L"], capture_output=True, text=True, check=False).stdout
        found = [str(number) for number, line in enumerate(line for line in listed.splitlines() if line[:4] == "GPU ")]
    else:
        found = []
    if count is None:
        return found
    return found[:count] if found else [str(number) for number in range(count)]


@contextmanager
def told_in_short(stopped: str, fault: int = 1) -> Iterator[None]:
    """Around a command: an EtudeError ends it in one line, with the code `fault`; Ctrl-C in the line `stopped`."""
    try:
        yield
    except EtudeError as error:
        leave(f"error: {error}", fault)
    except KeyboardInterrupt:
        leave(stopped, 130)


def conclude(message: str, fine: bool) -> None:
    """Say what a flow came to, and end the program where that is not what was asked for."""
    if not fine:
        leave(message)
    say(message)


def say(text: str) -> None:
    """Print text as it is: brackets are no mark-up, and long lines stay whole."""
    Console(highlight=False).print(text, markup=False, soft_wrap=True)


def leave(message: str, code: int = 1) -> NoReturn:
    """Say why on stderr and end the program."""
    Console(stderr=True, highlight=False).print(Text(message), soft_wrap=True)
    raise typer.Exit(code)


if __name__ == "__main__":
    command_line(main)
