"""`etude memory` counts with the values of a preset, and changes no file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from commands.memory import memory
from etude.core.errors import EtudeError
from etude.core.files import sha256_tree
from etude.memory import build, drawing
from etude.memory.footprint import Footprint, Setup
from tests.shipped import copy_project, replace_in

GB = 1_000_000_000


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(copy_project(tmp_path / "project"))
    return Path()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Setup]]:
    """What is counted, in place of counting it."""
    calls: list[tuple[Any, Setup]] = []

    def count(method: Any, name: str, params: Any, setup: Setup) -> Footprint:
        calls.append((params, setup))
        return Footprint(weights=7 * GB, learned=2 * GB, gradients=GB, optimizer=GB, activations=GB, previews=4 * GB)

    def count_drawing(setup: Setup, pictures: int) -> Footprint:
        return Footprint(weights=7 * GB, activations=pictures * GB)

    monkeypatch.setattr(build, "count_build", count)
    monkeypatch.setattr(drawing, "count_drawing", count_drawing)
    return calls


def test_it_counts_with_the_values_of_a_preset_and_changes_nothing(
    project: Path, counted: list[tuple[Any, Setup]], capsys: pytest.CaptureFixture[str]
) -> None:
    before = sha256_tree(project)
    memory("lora", "sdxl")
    [(params, setup)] = counted
    assert (params.rank, params.training.batch_size) == (16, 1)
    assert setup == Setup(Path("models/sdxl"), "sdxl", 1024, "bf16")
    shutil.rmtree(".cache")  # where the count is remembered
    assert sha256_tree(project) == before
    shown = capsys.readouterr().out
    assert "lora with the preset sdxl" in shown
    assert "14.00 GB  at once: fits a card of 16 GB\n  less: `training.optimizer.kind: adamw8bit` (" in shown
    assert "less: `recompute" not in shown  # it is on
    assert "evaluate       11.00 GB  pictures drawn at once: 4" in shown


def test_what_was_counted_is_remembered_until_a_parameter_or_the_base_changes(
    project: Path, counted: list[tuple[Any, Setup]]
) -> None:
    for _ in range(2):
        memory("lora", "sdxl")
    assert len(counted) == 1
    replace_in(project / "pipelines/lora/params.yaml", "clip_skip: 0", "clip_skip: 1")
    memory("lora", "sdxl")
    assert len(counted) == 2
    memory("lora", "sd15")
    assert len(counted) == 3


def test_json_holds_bytes_and_says_whether_the_weights_are_here(
    project: Path, counted: list[tuple[Any, Setup]], capsys: pytest.CaptureFixture[str]
) -> None:
    memory("lora", "sd15", as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["peak_bytes"] == 14 * GB
    assert shown["parts"]["previews"] == 4 * GB
    assert shown["dry"] is True
    assert shown["drawing"] == {"evaluate": 11 * GB, "grid": 11 * GB}


@pytest.mark.parametrize(("method", "preset"), [("lroa", ""), ("lora", "sdx")])
def test_an_unknown_method_or_preset_is_one_line(project: Path, method: str, preset: str) -> None:
    with pytest.raises(EtudeError, match="did you mean"):
        memory(method, preset)
