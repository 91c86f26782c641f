"""What a flow saves and costs compared with `dvc repro`: `python -m benchmarks.flows [targets]`.

Each way of running the graph gets a fresh clone of the present commit with an empty cache, so that every stage does its
work; the ways take turns. Their outputs are compared: all locks must be the same. Run this on an idle machine.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from etude.core.errors import InputError
from etude.core.files import write_json
from etude.core.params import read_yaml
from tasks import shell

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "logs" / "benchmarks" / "flows.json"
ONLY_PREFECT = """
from pathlib import Path
from flows import server
ready = server.connect(Path.cwd())
from prefect import flow
ready()
flow(lambda: None, name="nothing")()
"""


def main(
    targets: Annotated[list[str] | None, typer.Argument(help="As of `etude run`.")] = None,
    jobs: Annotated[int, typer.Option(min=2, help="Stages at once.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Clones of each way.")] = 3,
) -> None:
    """Time `dvc repro`, the flow with one job and with several, and each of them again with nothing left to do."""
    ways = {
        "dvc repro": ["dvc", "repro"],
        "flow, 1 job": ["flows.run", "--jobs", "1"],
        f"flow, {jobs} jobs": ["flows.run", "--jobs", str(jobs)],
    }
    seconds: dict[str, list[float]] = {}
    locks = set()
    with tempfile.TemporaryDirectory(prefix="etude-benchmark-") as temporary:
        for number in range(rounds):
            for name, words in ways.items():
                clone = Path(temporary, f"{number} {name}")
                run(["git", "clone", "--quiet", "--shared", str(ROOT), str(clone)], ROOT)
                command = [sys.executable, "-m", *words, *(targets or [])]
                prefect = [sys.executable, "-c", ONLY_PREFECT]
                for entry, timed in {
                    "Prefect alone, making its database": prefect,
                    name: command,
                    f"{name}, nothing to do": command,
                    "Prefect alone": prefect,
                }.items():
                    seconds.setdefault(entry, []).append(run(timed, clone))
                locks.add(outputs(clone))
                shutil.rmtree(clone)
    if len(locks) > 1:
        raise InputError("the clones", "do not all hold the same outputs", "look for what makes a stage differ")
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    write_json(RESULT, {"seconds": seconds, "jobs": jobs, "targets": targets or []})
    show(medians, list(ways))


def run(command: Sequence[str], folder: Path) -> float:
    """Seconds that a command takes; if it fails, raises InputError with the end of its output."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"}
    for name in ("PREFECT_API_URL", "PREFECT_HOME"):
        env.pop(name, None)
    start = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(" ".join(command[1:4]), (done.stdout + done.stderr)[-2000:], "mend it and run this again")
    return time.monotonic() - start


def outputs(clone: Path) -> str:
    """The outs of every stage in the locks of a clone, as one text."""
    locks = sorted(path for path in clone.rglob("dvc.lock") if ".scratch" not in path.parts)
    stages = {path.relative_to(clone): read_yaml(path)["stages"] for path in locks}
    return repr([(file, name, one.get("outs")) for file, made in stages.items() for name, one in sorted(made.items())])


def show(medians: dict[str, float], ways: Sequence[str]) -> None:
    """Print medians and their ratios to `dvc repro`, with and without the time that Prefect alone takes."""
    alone, plain = medians["Prefect alone"], medians[ways[0]]
    table = Table("way", "s", "beside dvc repro", "less Prefect alone", "nothing to do, s", "less Prefect alone")
    for way in ways:
        took, idle = medians[way], medians[f"{way}, nothing to do"]
        own = 0.0 if way == ways[0] else alone
        less = f"{(took - own) / plain:.3f}"
        table.add_row(way, f"{took:.1f}", f"{took / plain:.3f}", less, f"{idle:.1f}", f"{idle - own:.1f}")
    Console().print(table)
    Console().print(f"Prefect's server and an empty flow: {alone:.1f} s", highlight=False)


if __name__ == "__main__":
    shell.run(main)
