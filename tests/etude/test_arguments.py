"""Command lines as people mistype them: what is told is the argument, not a params file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shipped import PARAMS, ROOT


def told(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What a command says in a folder with params files."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a fault in its params.yaml."""
    folder = Path(shutil.copytree(PARAMS, tmp_path_factory.mktemp("faulty") / "project"))
    file = folder / "params.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("\nseed: 0", "\nseed: -1"), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("tasks.build lroa", 1, "METHOD: there is no method `lroa`, did you mean `lora`? Next: name one of aesthetic"),
        ("tasks.evaluate x", 1, "METHOD: there is no method `x`. Next: name one of aesthetic_gradient, clip_inversion"),
        ("commands.images --from x --set y --method z", 1, "--method: there is no method `z`. Next: name one of aesth"),
        ("tasks.build lora --fource", 2, "No such option: --fource"),
        ("tasks.build", 2, "Missing argument"),
    ],
)
def test_an_argument_is_looked_at_before_the_params_files(words: str, code: int, said: str, faulty: Path) -> None:
    done = told(faulty, *words.split())
    assert said in done.stderr
    assert done.returncode == code
    assert "params.yaml" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("tasks.prepare conzept", "NAME: there is no image set `conzept`, did you mean `concept`? Next: name one of"),
        ("tasks.class_images dreambooth --real x", "--real: there is no image set `x`. Next: name one of concept, st"),
        ("commands.preset sd_15", "NAME: there is no preset `sd_15`, did you mean `sd15`? Next: name one of mini"),
    ],
)
def test_a_name_that_there_is_not_is_answered_with_those_that_there_are(words: str, said: str, shipped: Path) -> None:
    done = told(shipped, *words.split())
    assert said in done.stderr
    assert done.returncode == 1


def test_a_fault_in_params_is_told_whatever_the_arguments_and_of_the_named_method_too(faulty: Path) -> None:
    file = faulty / "pipelines/dreambooth/params.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("\nclip_skip: 0", "\nclip_skip: 99"), encoding="utf-8")
    said = told(faulty, "tasks.grid", "dreambooth").stderr
    assert "params.yaml: `seed` input should be greater than or equal to 0, not -1" in said
    assert "pipelines/dreambooth/params.yaml: `clip_skip`" in said


@pytest.mark.parametrize("command", ["commands.sample", "flows.run"])
def test_help_keeps_what_stands_in_brackets_and_needs_no_params(command: str, faulty: Path) -> None:
    done = told(faulty, command, "--help")
    assert done.returncode == 0, done.stderr
    if command == "commands.sample":
        assert "a row each; [name] is the word" in done.stdout
