"""Real git and DVC repositories whose stages are tiny programs that tell when they ran, and a real Prefect server."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from ruamel.yaml import YAML

from flows.board import Board, use
from flows.plan import Stage
from tests.shipped import run_module

os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
ROOT = Path(__file__).parent.parent.parent
PATIENCE = 240.0  # seconds until a test gives up waiting for another process

# A stage's program. `work.py NAME [word…]` notes its start in runs.txt, obeys the words, and writes out/NAME.
WORK = """
import os, pathlib, sys, time
name, *words = sys.argv[1:]
def wait_for(file):
    end = time.time() + 240
    while not pathlib.Path(file).exists():
        assert time.time() < end, file
        time.sleep(0.02)
with open("runs.txt", "a") as runs:
    runs.write(name + "\\n")
pathlib.Path(name + ".pid").write_text(str(os.getpid()))
for word in words:
    if word.startswith("wait:"):
        wait_for(word[5:])
    elif word.startswith("fail:") and not pathlib.Path("fixed").exists():
        print("something is wrong with", name)
        sys.exit(int(word[5:]))
    elif word == "alone":
        os.close(os.open("busy", os.O_CREAT | os.O_EXCL))
        time.sleep(0.3)
        os.remove("busy")
        with open("devices.txt", "a") as devices:
            devices.write(os.environ.get("CUDA_VISIBLE_DEVICES", "none") + "\\n")
pathlib.Path("out").mkdir(exist_ok=True)
pathlib.Path("out", name).write_text(name)
"""


@dataclass
class Project:
    """A repository to run flows in."""

    root: Path

    def stages(self, file: str = "dvc.yaml", **stages: dict[str, Any]) -> None:
        """Write a dvc.yaml. Each stage: `words` for its program, `deps`, and any of DVC's own keys."""
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        wdir = {} if file == "dvc.yaml" else {"wdir": os.path.relpath(self.root, path.parent)}
        made = {}
        for name, given in stages.items():
            own = {key: value for key, value in given.items() if key != "words"}
            command = " ".join(["python3 work.py", name, *given.get("words", [])])
            made[name] = {"cmd": command, "outs": [f"out/{name}"], **wdir, **own}
        with path.open("w") as text:
            YAML().dump({"stages": made}, text)

    def runs(self) -> list[str]:
        """The stages whose programs were started, in order."""
        file = self.root / "runs.txt"
        return file.read_text().split() if file.exists() else []

    def dvc(self, *words: str) -> str:
        """What a dvc command prints. It must succeed."""
        result = run_module(self.root, "dvc", *words)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def flow(self, *words: str, **env: str) -> subprocess.Popen[str]:
        """Start `etude run` here."""
        return subprocess.Popen(
            [sys.executable, "-m", "flows.run", *words],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def pid(self, name: str) -> int:
        """The process of a stage that has begun."""
        file = self.root / f"{name}.pid"
        wait_until(lambda: file.exists() and file.read_text() != "")
        return int(file.read_text())


class Calls(list[tuple[Any, ...]]):
    """A function that does nothing but note its arguments: those by position, then those by name if there are any."""

    def __init__(self, result: Any = None) -> None:
        self.result = result

    def __call__(self, *given: Any, **named: Any) -> Any:
        self.append((*given, named) if named else given)
        return self.result


class Clock:
    """A clock that goes on only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Waits(Event):
    """An event whose waiters sleep on a clock; it is set at a given time."""

    def __init__(self, clock: Clock, at: float = float("inf")) -> None:
        super().__init__()
        self.clock, self.at = clock, at

    def wait(self, timeout: float | None = None) -> bool:
        self.clock.sleep(timeout or 0)
        return self.clock.now >= self.at


class Git:
    """Answers to commands of git, by their first words; `asked` are the commands in their order."""

    def __init__(self, **answers: str | list[str]) -> None:
        self.answers, self.asked = answers, list[str]()

    def __call__(self, folder: Path, *words: str, check: bool = True) -> str:
        self.asked.append(" ".join(words) + ("" if check else " (may fail)"))
        answer = self.answers.get(words[0].replace("-", "_"), "")
        return answer.pop(0) if isinstance(answer, list) else answer


class Trees:
    """Worktrees that are plain folders; `asked` is what each was made from, `left` those that are gone again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked, self.left = folder, list[tuple[Any, ...]](), list[int]()

    @contextmanager
    def make(self, root: Path, revision: str, **wanted: Any) -> Iterator[tuple[Path, int]]:
        number = len(self.asked)
        self.asked.append((root, revision, wanted))
        tree = self.folder / f"tree{number}"
        tree.mkdir(parents=True)
        try:
            yield tree, 100 + number
        finally:
            self.left.append(number)

    @property
    def open(self) -> int:
        return len(self.asked) - len(self.left)


# Two stages of a run elsewhere, of which the second needs the first.
STAGES = [Stage("m.yaml:made", "made", why=("x",)), Stage("m.yaml:lost", "lost", ("m.yaml:made",))]


@pytest.fixture
def board() -> Board:
    """A board that nobody sees, in use."""
    board = Board()
    use(board)
    return board


@pytest.fixture
def trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trees:
    """What experiments take for worktrees."""
    from flows import experiments

    trees = Trees(tmp_path / "trees")
    monkeypatch.setattr(experiments, "worktree", trees.make)
    return trees


def wait_until(true: Callable[[], object]) -> None:
    """Wait for another process to bring something about."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def empty_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh repository, to copy."""
    root = tmp_path_factory.mktemp("project") / "empty"
    subprocess.run(["git", "init", "--quiet", "--template=", str(root)], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=root, check=True)
    (root / "work.py").write_text(WORK)
    (root / ".gitignore").write_text("/out/\n/logs/\n/.scratch/\n/runs.txt\n/*.pid\n")
    return root


@pytest.fixture
def project(empty_project: Path, tmp_path: Path) -> Project:
    """A repository without stages yet."""
    return Project(Path(shutil.copytree(empty_project, tmp_path / "project")))


@pytest.fixture(scope="package")
def prefect_server() -> Iterator[str]:
    """A Prefect server with an empty database, for this process and those it starts; the value is its API's address."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield str(PREFECT_API_URL.value())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Prefect's clients leave sockets to the garbage collector
        gc.collect()
