"""What the commands of flows share: the repository's root, GPUs, and messages to the user."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from etude.core.errors import EtudeError, InputError, in_lines

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

RUNNERS = {"dask": "prefect_dask", "ray": "prefect_ray"}  # task runner → the package with it


def find_root(folder: Path) -> Path:
    """The repository that contains a folder: the nearest parent with a `.dvc`. Raises InputError without one."""
    for root in (folder, *folder.parents):
        if (root / ".dvc").is_dir():
            return root
    raise InputError(folder, "is not in a DVC repository", "`cd` into one, or make one with `dvc init`")


def refuse_runner(name: str) -> None:
    """Raise InputError for a task runner that nobody knows, or whose package is not installed."""
    kind = name.partition("@")[0]
    if name == "threads":
        return
    if kind not in RUNNERS:
        raise InputError(f"--runner {name}", "there is no such task runner", "use threads, dask or ray")
    package = RUNNERS[kind]
    if find_spec(package) is None:
        fault = f"{package.replace('_', '-')} is not installed"
        raise InputError(f"--runner {name}", fault, f"install it with `make setup EXTRAS={kind}`")


def devices(count: int | None) -> list[str]:
    """Ids of the GPUs to hand out: what CUDA_VISIBLE_DEVICES allows, else all of nvidia-smi's; at most `count`."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        found = [device for device in allowed.split(",") if device.strip()]
    elif smi := which("nvidia-smi"):
        listed = subprocess.run([smi, "-L"], capture_output=True, text=True, check=False).stdout
        lines = [line for line in listed.splitlines() if line.startswith("GPU ")]  # a GPU's MIG parts have lines too
        found = [str(number) for number in range(len(lines))]
    else:
        found = []
    if count is None:
        return found
    return found[:count] if found else [str(number) for number in range(count)]


def device_memory() -> int:
    """The memory of the smallest GPU in bytes, as nvidia-smi tells it; 0 without one."""
    smi = which("nvidia-smi")
    if not smi or not devices(None):
        return 0
    command = [smi, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return min((int(line) for line in listed.splitlines() if line.strip().isdigit()), default=0) * 2**20  # MiB


@contextmanager
def told_in_short(stopped: str, fault: int = 1) -> Iterator[None]:
    """Wrap a command: an EtudeError ends it with one line and exit code `fault`, Ctrl-C with the line `stopped`."""
    try:
        refuse_windows()
        yield
    except EtudeError as error:
        leave(f"error: {error}", fault)
    except KeyboardInterrupt:
        leave(stopped, 130)


def refuse_windows() -> None:
    """Raise InputError on Windows: flows need process groups and shared locks, which only Unix has."""
    if sys.platform == "win32":
        action = "use WSL; or `dvc repro`, which runs the same stages here one at a time"
        raise InputError("Windows", "flows need Linux or macOS", action)


def conclude(message: str, fine: bool) -> None:
    """Print the message of a flow; if its result is not `fine`, end the program with an error."""
    if not fine:
        leave(message)
    say(message)


def say(text: str) -> None:
    """Print text as it is: brackets are no mark-up, long lines stay whole, and no name in it steers the terminal."""
    Console(highlight=False).print(in_lines(text), markup=False, soft_wrap=True)


def leave(message: str, code: int = 1) -> NoReturn:
    """Print the message on stderr and end the program."""
    Console(stderr=True, highlight=False).print(Text(in_lines(message)), soft_wrap=True)
    raise typer.Exit(code)


def end_of(flow: Callable[[], State[Any]]) -> State[Any]:
    """Run a flow; returns its final state.

    Raises KeyboardInterrupt if it was stopped, the EtudeError that ended it, or InputError if the server is gone.
    """
    from httpx import HTTPError

    interrupted = note_interrupts()
    try:
        state = flow()
        cause = state.result(raise_on_failure=False) if state.is_failed() else None
        if isinstance(cause, EtudeError | HTTPError) and not interrupted:
            raise cause
    except HTTPError as error:
        fault = f"it stopped answering while the flow ran ({describe(error)})"
        raise InputError("the Prefect server", fault, "run this again: what is finished is kept") from error
    if interrupted:
        raise KeyboardInterrupt
    return state


def describe(error: BaseException) -> str:
    """The message of an error; the name of its kind where it has none, as a time-out of httpx."""
    return str(error) or type(error).__name__


def note_interrupts() -> list[int]:
    """A list that grows with every Ctrl-C: Prefect sometimes turns the KeyboardInterrupt into a state."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, note)
    return seen
