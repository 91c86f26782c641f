"""A dvc that is killed alone in mid-build, and another that begins at once: the artifacts are whole, and the same.

`KILLS=40 python -m pytest tests/tasks/test_kills_of_dvc.py` tries forty. The quick form of this is in test_watch.py.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from etude.core.files import sha256_tree
from etude.core.params import read_yaml
from tests.etude.watch.watched import Project, kill, set_param, write_yaml
from tests.pipelines.learning import params_of
from tests.shipped import copy_project, git
from tests.tasks.learning import write_data

KILLS = int(os.environ.get("KILLS", "2"))  # one SIGKILL, one SIGTERM
SHORT = {"steps": 60, "checkpoint_every": 12, "resume_every": 3, "log_every": 20, "batch_size": 2}
FIVE = [f"{step:06d}.safetensors" for step in (12, 24, 36, 48, 60)]
BUILD = "pipelines/lora/dvc.yaml:build"


@pytest.fixture
def project(tmp_path: Path, tiny_base: Path) -> Project:
    """The project as it is, with a short build on a tiny base and its inputs made."""
    folder = copy_project(tmp_path / "project")
    shutil.copytree(tiny_base, folder / "models/tiny")
    set_param(folder / "params.yaml", base="models/tiny", methods=["lora"], device="cpu", precision="fp32")
    params = params_of("lora", training=SHORT, rank=2).model_dump(mode="json")
    write_yaml(folder / "pipelines/lora/params.yaml", params | {"preview": params["preview"] | {"seeds": []}})
    write_data(folder / "data/concept")
    (folder / "artifacts/lora/class_images").mkdir(parents=True)
    (folder / "artifacts/lora/sources/start").mkdir(parents=True)  # that of a method that starts from scratch
    for command in (["git", "init", "-q", "--template="], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "start")
    return Project(folder)


def repro(project: Project) -> subprocess.Popen[str]:
    """Build, whatever was built before."""
    return project.dvc("repro", "--single-item", "--no-run-cache", BUILD)


def forget(project: Project) -> None:
    """As if nothing had been built here."""
    (project.root / "pipelines/lora/dvc.lock").unlink(missing_ok=True)
    for folder in ("build", "previews", "training"):
        shutil.rmtree(project.root / "artifacts/lora" / folder, ignore_errors=True)


@pytest.mark.slow  # two builds for every kill
def test_whenever_dvc_is_killed_alone_the_next_one_makes_the_same(project: Project) -> None:
    start = time.monotonic()
    assert repro(project).wait() == 0, project.said()
    took = time.monotonic() - start
    whole = sha256_tree(project.root / "artifacts")
    recorded = read_yaml(project.root / "pipelines/lora/dvc.lock")["stages"]
    for number in range(KILLS):
        chance = random.Random(number)
        forget(project)
        first = repro(project)
        time.sleep(chance.uniform(0.1, 1.0) * took)
        kill(first, (signal.SIGKILL, signal.SIGTERM)[number % 2])
        assert repro(project).wait() == 0, project.said()
        assert sorted(os.listdir(project.root / "artifacts/lora/build/checkpoints")) == FIVE, project.said()
        assert sha256_tree(project.root / "artifacts") == whole, f"kill {number}: {project.said()}"
        assert read_yaml(project.root / "pipelines/lora/dvc.lock")["stages"] == recorded
        assert [path for path in (project.root / "artifacts/lora").iterdir() if path.name[0] == "."] == []
