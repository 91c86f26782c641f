"""Let this machine take stages: `etude worker cpu`, in a clone of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from etude import names
from etude.command_line import command_line
from etude.core.errors import InputError
from etude.core.workers import cores
from flows.serve import CODE
from flows.terminal import devices, find_root, told_in_short


def main(
    pool: Annotated[
        str, typer.Argument(help="cpu or gpu: which stages to take.", autocompletion=names.among("cpu", "gpu"))
    ] = "cpu",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Stages at once.", show_default="one a core, or one a GPU")
    ] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs to hand out.", show_default="all there are")] = None,
) -> None:
    """Take stages from a work pool of the Prefect server at PREFECT_API_URL until Ctrl-C, then finish those that run.

    Run it in a clone that has the shared DVC remote; the clone's files are not touched.

    Example: etude worker cpu --limit 2
    """
    with told_in_short("stopped"):
        code = work(find_root(Path.cwd()), pool, limit, devices(gpus) if pool == "gpu" else [])
    raise typer.Exit(code)


def work(root: Path, pool: str, limit: int | None, gpus: list[str]) -> int:
    """Run a Prefect worker for a pool; returns its exit code. Raises InputError if this machine cannot be a worker."""
    if pool not in ("cpu", "gpu"):
        raise InputError(pool, "there is no such pool", "give cpu or gpu")
    if pool == "gpu" and not gpus:
        raise InputError("gpu", "no GPU was found on this machine", "give cpu, or the number of GPUs with --gpus")
    if "PREFECT_API_URL" not in os.environ:
        fault = "is not set, so the worker does not know its Prefect server"
        raise InputError("PREFECT_API_URL", fault, "set it to the server's address, such as http://10.0.0.1:4200/api")
    from flows import server

    ready = server.connect(root)
    most = limit or (len(gpus) if pool == "gpu" else cores())
    paths = filter(None, [str(CODE), os.environ.get("PYTHONPATH")])
    own = {"PYTHONPATH": os.pathsep.join(paths), "ETUDE_CLONE": str(root), "ETUDE_JOBS": str(most)}
    os.environ.update(own, ETUDE_GPUS=",".join(gpus))
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", "2")
    ready()
    from flows.machines import make_pools

    make_pools()
    Console(highlight=False).print(f"takes stages of {pool}, {most} at once  (Ctrl-C: no more, then it leaves)")
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
    # In a session of its own: otherwise it gets both the terminal's Ctrl-C and our signal, and the second one kills it.
    worker = subprocess.Popen([*command, "--limit", str(most)], cwd=root, start_new_session=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda which, _: worker.send_signal(which))
    return worker.wait()


if __name__ == "__main__":
    command_line(main)
