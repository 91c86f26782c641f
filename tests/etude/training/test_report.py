"""What a run leaves behind."""

from __future__ import annotations

import os
import time
from io import StringIO
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from etude.core import artifact as artifacts
from etude.core.artifact import Artifact
from etude.core.errors import TrainingError
from etude.training.report import Report, forget_finished


def report(folder: Path, **changes: object) -> Report:
    return Report(folder / "scratch", seed=1, device="cpu", precision="fp32", **changes)  # type: ignore[arg-type]


def test_a_saved_state_comes_back_with_the_curve_and_is_deleted_at_the_end(tmp_path: Path) -> None:
    first = report(tmp_path)
    assert first.restore() is None
    first.log(5, 0.5, 1e-3)
    first.keep({"step": 5, "parameters": [torch.ones(2)]})
    first.log(10, 0.25, 1e-4)
    again = report(tmp_path)
    state = again.restore()
    assert state is not None
    assert (state["step"], state.keys()) == (5, {"step", "parameters"})
    assert again.history == [(5, 0.5, 1e-3)]
    again.discard()
    assert not (tmp_path / "scratch").exists()
    assert report(tmp_path).restore() is None


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flipped"])
def test_a_damaged_state_is_named_with_what_to_delete(tmp_path: Path, damage: str) -> None:
    report(tmp_path).keep({"step": 5, "parameters": [torch.ones(1000)]})
    path = tmp_path / "scratch/state.pt"
    whole = path.read_bytes()
    flipped = whole.replace(b"history", b"histori")
    path.write_bytes({"cut": whole[:-100], "empty": b"", "text": b"no state", "flipped": flipped}[damage])
    with pytest.raises(
        TrainingError, match=r"state\.pt: cannot be read .*Next: delete .*scratch to start again"
    ) as caught:
        report(tmp_path).restore()
    assert "\n" not in str(caught.value)


def test_a_checkpoint_tells_its_step_and_its_preview_is_shown_at_once(tmp_path: Path) -> None:
    made = report(tmp_path, preview=lambda: Image.new("RGB", (8, 8), "red"), watch=tmp_path / "logs/previews")
    learned = Artifact("test", {"w": torch.ones(1)}, {"name": "owl", "step": 1})
    made.checkpoint(12, learned)
    made.draw(12)
    made.checkpoint(1_234_567, None)
    made.draw(1_234_567)
    assert artifacts.load(made.folder / "checkpoints/000012.safetensors").facts == {"name": "owl", "step": 12}
    assert learned.facts["step"] == 1
    for folder in (made.folder / "previews", tmp_path / "logs/previews"):
        assert sorted(path.name for path in folder.iterdir()) == ["000012.png", "1234567.png"]
    assert [path.name for path in (made.folder / "checkpoints").iterdir()] == ["000012.safetensors"]


def test_a_run_that_resumes_says_so_and_its_bar_begins_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(file=StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr("etude.training.report.CONSOLE", console)
    resumed = report(tmp_path)
    resumed.start(30, 40)
    assert resumed._bar is not None
    assert (resumed._bar.tasks[0].completed, resumed._bar.tasks[0].total) == (30, 40)
    resumed.advance(35)
    assert resumed._bar.tasks[0].completed == 35
    resumed._bar.stop()
    assert "resumed at step 30 of 40" in console.file.getvalue()  # type: ignore[attr-defined]


def test_without_a_preview_nothing_is_drawn(tmp_path: Path) -> None:
    made = report(tmp_path, watch=tmp_path / "logs")
    made.checkpoint(1, Artifact("test", {"w": torch.ones(1)}, {}))
    made.draw(1)
    assert not (made.folder / "previews").exists()
    assert not (tmp_path / "logs").exists()


def test_states_of_runs_that_ended_days_ago_are_forgotten_and_others_stay(tmp_path: Path) -> None:
    for name, age in (("old", 3.5), ("new", 2.5)):
        ended = Report(tmp_path / name, seed=1, device="cpu", precision="fp32")
        ended.keep({"step": 5})
        ended.retain(5, state=True)
        assert ended.finished == 5
        moment = time.time() - age * 86_400
        os.utime(tmp_path / name / "finished", (moment, moment))
    report(tmp_path / "stopped").keep({"step": 5})
    forget_finished(tmp_path, days=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "stopped"]
