"""A git and DVC repository whose stages are tiny programs under the real `tasks.run`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from etude.core.params import read_yaml
from tests.shipped import ROOT, held

PATIENCE = 120.0  # seconds until a test gives up waiting for another process
LARGE = 1 << 20  # bytes
DEAD = 2**22 + 1  # above the largest number that Linux gives a process

# `python3 -m steps.work NAME` reads what lies in in/NAME, says so in begun/NAME, counts in its scratch, which a second
# one would spoil, waits for go/NAME, and publishes all that.
WORK = """
import os, time
from pathlib import Path
from tasks.shell import publish, run
from steps import helper

def tell(name):
    Path("begun", f".{name}").write_text(str(os.getpid()))
    Path("begun", f".{name}").rename(Path("begun", name))
    while not Path("go", name).exists():
        time.sleep(0.02)

def work(name: str) -> None:
    files = [file for file in sorted(Path("in", name).rglob("*")) if file.is_file() and file.name[0] != "."]
    read = "".join(f"{file}: {file.read_bytes()[:20]!r}\\n" for file in files)
    scratch = Path(".scratch", f"{name}.txt")
    with open("runs.txt", "a") as runs:
        runs.write(f"{name}\\n")
    with scratch.open("w") as file:
        for number in range(10):
            print(number, file=file, flush=True)
            time.sleep(0.02)
        tell(name)
        print("end", file=file)
    with publish(Path("out", name)) as out:
        (out / "made.txt").write_text(read + helper.WORD + scratch.read_text())

if __name__ == "__main__":
    run(work)
"""
# The same, slow to begin: it waits between its imports and its first look.
LATE = """
from steps.work import run, tell, work

if __name__ == "__main__":
    tell("late")
    run(work)
"""
# The same, and what it reads is edited while it looks for the last time: it reads dvc.yaml then.
EDITED = """
from pathlib import Path
from etude.watch import watch
from steps.work import run, work

this_stage = watch.this_stage

def edited():
    if Path("out/edited").exists():
        Path("in/edited/own.yaml").write_text("rank: 5\\n")
    return this_stage()

watch.this_stage = edited

if __name__ == "__main__":
    run(work)
"""
# The same, as two processes of which the first does the work.
MANY = """
import time
from pathlib import Path
from etude.training.processes import is_main, spread
from steps.work import run, work

def many(name: str) -> None:
    spread(2)
    if is_main():
        work(name)
    while not Path("go", name).exists():
        time.sleep(0.02)

if __name__ == "__main__":
    run(many)
"""


@dataclass
class Project:
    """The repository, and what its stages do."""

    root: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def stages(self, **stages: dict[str, Any]) -> None:
        """Write dvc.yaml and what each stage reads; a stage is `steps.work` under its name, or has DVC's own keys."""
        made: dict[str, Any] = {}
        for name, own in stages.items():
            files = {"code.txt": b"code", "own.yaml": b"rank: 4\n", "data/large.bin": b"large" * LARGE}
            files |= {f"data/{picture}.png": picture.encode() * 10 for picture in ("a", "b", "inner/c")}
            for path, content in files.items():
                (self.root / "in" / name / path).parent.mkdir(parents=True, exist_ok=True)
                (self.root / "in" / name / path).write_bytes(content)
            params = ["seed", {f"in/{name}/own.yaml": None}]
            usual = {
                "cmd": f"python3 -m steps.work {name}",
                "deps": [f"in/{name}/code.txt", f"in/{name}/data", "steps"],
            }
            made[name] = usual | {"params": params, "outs": [f"out/{name}"]} | own
        write_yaml(self.root / "dvc.yaml", {"stages": made})

    def dvc(self, *words: str) -> subprocess.Popen[str]:
        """Start a dvc command here."""
        return self.start(sys.executable, "-m", "dvc", *words)

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a program here, with its output in a file: whoever reads a pipe waits for all that have it open."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
        with (self.root / "said.txt").open("a") as said:
            process = subprocess.Popen(
                command, cwd=self.root, env=env, stdout=said, stderr=said, text=True, start_new_session=True
            )
        self.started.append(process)
        return process

    def said(self) -> str:
        """All that the programs started here said."""
        return (self.root / "said.txt").read_text()

    def next(self) -> tuple[str, int]:
        """Wait until a stage has read what it reads; its name and process. Each is given once."""
        folder = self.root / "begun"
        self.wait_until(lambda: any(name[0] != "." for name in os.listdir(folder)))
        (file,) = (file for file in folder.iterdir() if file.name[0] != ".")
        number = int(file.read_text())
        file.unlink()
        return file.name, number

    def wait_until(self, true: Callable[[], object]) -> None:
        """Wait for what the programs started here bring about."""
        end = time.monotonic() + PATIENCE
        while not true():
            assert any(process.poll() is None for process in self.started), self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(0.02)

    def go(self, name: str) -> None:
        """Let a stage come to its end."""
        (self.root / "go" / name).touch()

    def recorded(self) -> dict[str, Any]:
        """The stages in dvc.lock."""
        lock = self.root / "dvc.lock"
        return dict(read_yaml(lock)["stages"]) if lock.exists() else {}

    def run_cache(self) -> list[dict[str, Any]]:
        """Every entry that DVC could restore a result from."""
        return [read_yaml(file) for file in self.root.glob(".dvc/cache/runs/*/*/*")]

    def kept(self) -> set[str]:
        """The stages that DVC could restore."""
        return {Path(out["path"]).name for entry in self.run_cache() for out in entry["outs"]}

    def runs(self) -> list[str]:
        """The stages that began, in order."""
        return (self.root / "runs.txt").read_text().split()

    def made(self, name: str) -> str:
        """What a stage published."""
        return (self.root / "out" / name / "made.txt").read_text()


def make_project(folder: Path) -> Project:
    """A repository with the project's own params, as they are shipped, and no stages yet."""
    for place in ("begun", "go", "steps", "pipelines/lora", ".scratch"):
        (folder / place).mkdir(parents=True)
    (folder / "steps/work.py").write_text(WORK)
    (folder / "steps/late.py").write_text(LATE)
    (folder / "steps/edited.py").write_text(EDITED)
    (folder / "steps/many.py").write_text(MANY)
    (folder / "steps/helper.py").write_text('WORD = "helped "\n')
    for path in ("params.yaml", "pipelines/lora/params.yaml"):
        shutil.copy(held(path), folder / path)
    set_param(folder / "params.yaml", methods=["lora"])
    (folder / ".dvcignore").write_text("__pycache__\n")
    for command in (["git", "init", "-q", "--template="], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return Project(folder)


def copy(project: Project, folder: Path) -> Project:
    """A project to change."""
    return Project(Path(shutil.copytree(project.root, folder / "project")))


def set_param(path: Path, **values: Any) -> None:
    """Other values in a params file."""
    write_yaml(path, read_yaml(path) | values)


def write_yaml(path: Path, data: Any) -> None:
    """A YAML file in block style, which every reader of YAML takes."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.dump(data, path)


def kill(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    """End a process alone, without what it has begun."""
    process.send_signal(number)
    process.wait()
