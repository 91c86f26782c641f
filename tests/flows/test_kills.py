"""Runs killed with SIGKILL at a random moment: the next one always completes, and makes the same.

`KILLS=50 python -m pytest tests/flows/test_kills.py` tries fifty.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from etude.watch.holders import lives
from tests.flows.conftest import Project

KILLS = int(os.environ.get("KILLS", "3"))

# Takes three seconds, writing as it goes, and makes a text of the round and of what it reads.
STEP = """
import os, pathlib, sys, time
name, *deps = sys.argv[1:]
pathlib.Path(name + ".pid").write_text(str(os.getpid()))
out = pathlib.Path("out", name)
out.parent.mkdir(exist_ok=True)
text = pathlib.Path("params.yaml").read_text() + "".join(pathlib.Path("out", dep).read_text() for dep in deps)
with out.open("w") as file:
    for line in range(30):
        file.write(f"{name} {line}: {text!r}\\n")
        file.flush()
        time.sleep(0.1)
"""
GRAPH = {"first": [], "left": ["first"], "right": ["first"], "alone": [], "last": ["left", "right", "alone"]}


def expected(name: str, params: str) -> str:
    """What a stage makes in an undisturbed run."""
    text = params + "".join(expected(dep, params) for dep in GRAPH[name])
    return "".join(f"{name} {line}: {text!r}\n" for line in range(30))


def kill_a_stage(project: Project, chance: random.Random) -> bool:
    """Kill the program of a running stage, or the dvc that runs it; whether there was one."""
    files = [*project.root.glob("*.pid"), *project.root.glob(".scratch/running/**/*.pid")]
    told = [file.read_text().removeprefix("stage ") for file in files]
    living = [int(text) for text in told if text.isdigit() and lives(int(text))]
    if not living:
        return False
    with suppress(ProcessLookupError):  # it ended by itself meanwhile
        os.kill(chance.choice(living), signal.SIGKILL)
    return True


def finish(flow: subprocess.Popen[str]) -> str:
    try:
        return flow.communicate(timeout=600)[0]
    except subprocess.TimeoutExpired:
        flow.kill()
        return "it hangs: " + flow.communicate()[0]


@pytest.mark.slow  # two runs for every kill
def test_whatever_is_killed_the_next_run_completes_and_makes_the_same(project: Project, prefect_server: str) -> None:
    (project.root / "step.py").write_text(STEP)
    stages = {
        name: {
            "cmd": " ".join(["python3 step.py", name, *deps]),
            "deps": ["step.py", *(f"out/{dep}" for dep in deps)],
            "params": ["round"],
        }
        for name, deps in GRAPH.items()
    }
    project.stages(**stages)
    took = 0.0
    for number in range(KILLS + 1):
        chance = random.Random(number)
        params = f"round: {number}\n"
        (project.root / "params.yaml").write_text(params)
        start, killed = time.monotonic(), ""
        flow = project.flow("--jobs", "2", PREFECT_API_URL=prefect_server)
        if number:  # the first run tells how long one takes
            time.sleep(chance.uniform(0, took))
            killed = ("a stage", "the flow", "both")[number % 3]
            if killed != "a stage":
                flow.kill()
            if killed != "the flow" and not kill_a_stage(project, chance):
                killed += ", no stage being at work"
        moment = time.monotonic() - start
        finish(flow)
        took = took or time.monotonic() - start
        again = project.flow("--jobs", "2", PREFECT_API_URL=prefect_server)
        text = finish(again)
        told = f"round {number}, {killed} killed after {moment:.1f} of {took:.1f} s: {text}"
        assert again.returncode == 0, told
        for name in GRAPH:
            assert Path(project.root, "out", name).read_text() == expected(name, params), told
        assert "up to date" in project.dvc("status"), told
