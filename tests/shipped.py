"""The project with its shipped parameters, whatever a user has changed in the tree.

Tests never read the tree's params files: they belong to the user, who may have chosen a preset, other methods or own
image sets. ``tests/params`` holds the shipped ones. After a change of a shipped parameter: `python -m tests.shipped`.
Below: what tests do in a copy of the project.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PARAMS = ROOT / "tests" / "params"
ROOMS = ("commands", "etude", "evidence", "flows", "miniature", "pipelines", "presets", "tasks")
FILES = ("dvc.yaml", ".dvcignore", ".gitignore", "pyproject.toml", "models/none")
OWN = ("params.yaml", "prefect.yaml", "flows/params.yaml", "pipelines/*/params.yaml")  # what users change


def held(name: str) -> Path:
    """The tests' copy of a params file; for a method that is not shipped, the file in the tree."""
    copy = PARAMS / name
    return copy if copy.exists() else ROOT / name


def copy_project(folder: Path) -> Path:
    """Copy the code, the graph and the shipped parameters to ``folder``."""
    left_out = shutil.ignore_patterns("__pycache__", "out", "dvc.lock", "cache", "tmp")  # the last two: below .dvc
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=left_out)
    (folder / "models").mkdir()
    for file in FILES:
        shutil.copy(ROOT / file, folder / file)
    shutil.copytree(PARAMS, folder, dirs_exist_ok=True)
    return folder


def replace_in(file: Path, old: str, new: str) -> None:
    """Replace a text that the file must have."""
    text = file.read_text(encoding="utf-8")
    assert old in text, file
    file.write_text(text.replace(old, new), encoding="utf-8")


def git(folder: Path, *words: str) -> str:
    """What a git command prints; it must succeed."""
    author = ["-c", "user.name=test", "-c", "user.email=test@localhost"]  # a machine may have none
    return subprocess.run(["git", *author, *words], cwd=folder, capture_output=True, text=True, check=True).stdout


def environment() -> dict[str, str]:
    """The environment variables with which the stages of DVC find this Python."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run_module(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m`` with these words in the folder, whatever its exit code."""
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)


def run_and_read(folder: Path, *words: str, code: int = 0) -> str:
    """What ``python -m`` with these words prints to both streams; it must end with exit code ``code``."""
    done = run_module(folder, *words)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def dvc(folder: Path, *words: str) -> str:
    """The output of a DVC command, which must succeed."""
    return run_and_read(folder, "dvc", *words)


def take() -> None:
    """Copy the tree's params files to ``tests/params``."""
    for pattern in OWN:
        for file in ROOT.glob(pattern):
            if file.parent.name == "miniature":
                continue  # not the user's: models/miniature was made with it
            copy = PARAMS / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)


if __name__ == "__main__":
    take()
