"""The project with its shipped parameters, whatever a user has changed in the tree.

Tests never read the tree's params files: they belong to the user, who may have chosen a preset, other methods or own
image sets. ``tests/params`` holds the shipped ones. After a change of a shipped parameter: `python -m tests.shipped`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).parent.parent
PARAMS = ROOT / "tests" / "params"
ROOMS = ("commands", "etude", "evidence", "flows", "miniature", "pipelines", "presets", "tasks")
FILES = ("dvc.yaml", ".dvcignore", ".gitignore", "pyproject.toml")
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
    for file in FILES:
        shutil.copy(ROOT / file, folder / file)
    shutil.copytree(PARAMS, folder, dirs_exist_ok=True)
    return folder


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
