"""What a run leaves behind."""

from __future__ import annotations

import os
import time
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from rich.console import Console

from etude.core import artifact as artifacts
from etude.core.artifact import Artifact
from etude.core.errors import TrainingError
from etude.core.files import read_json
from etude.training.curve import Curve
from etude.training.report import Report, forget_finished
from etude.training.trackers import Trackers

COLOURS = ("red", "blue")


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


def test_at_its_end_a_run_has_its_curve_as_plots_and_its_last_point_as_metrics(tmp_path: Path) -> None:
    made = report(tmp_path)
    (made.folder / "training").mkdir(parents=True)
    (made.folder / "training" / "old.json").touch()
    made.log(10, 0.5, 1e-3)
    made.log(20, 0.25, 1e-4)
    assert made.finish() == tmp_path / "scratch" / "results"
    rows = {}
    for name in ("loss", "learning_rate"):
        text = (made.folder / "training/plots/metrics" / f"{name}.tsv").read_text()
        rows[name] = [line.split("\t") for line in text.splitlines()]
    assert rows["loss"] == [["step", "loss"], ["10", "0.5"], ["20", "0.25"]]
    assert rows["learning_rate"] == [["step", "learning_rate"], ["10", "0.001"], ["20", "0.0001"]]
    found = read_json(made.folder / "training" / "metrics.json")
    assert found == {"loss": 0.25, "learning_rate": 1e-4, "step": 20}
    assert not (made.folder / "training" / "old.json").exists()


def test_every_point_goes_to_the_curve_the_trackers_and_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(file=StringIO(), width=80)
    monkeypatch.setattr("etude.training.report.CONSOLE", console)
    sent: list[tuple[int, dict[str, float]]] = []
    tracker = SimpleNamespace(log=lambda values, step: sent.append((step, values)), finish=lambda: sent.clear())
    trackers = Trackers(["wandb"], tmp_path / "run", {}, _open=[tracker])
    (tmp_path / "run").mkdir()
    made = report(tmp_path, curve=Curve(tmp_path / "live"), trackers=trackers)
    made.start(0, 40)
    made.log(10, 0.51234, 1.2345e-3)
    assert sent == [(10, {"loss": 0.51234, "learning_rate": 1.2345e-3})]
    assert (tmp_path / "live/plots/metrics/loss.tsv").read_text() == "step\tloss\n10\t0.51234\n"
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert told.splitlines() == ["starting, 40 steps", "step 10: loss 0.5123, learning rate 0.00123"]
    made.finish()
    assert sent == []


def test_a_run_that_resumes_begins_its_curve_with_the_points_so_far(tmp_path: Path) -> None:
    live = Curve(tmp_path / "live")
    live.add((99, 9.0, 9.0))
    made = report(tmp_path, curve=live, history=[(10, 0.5, 1e-3), (20, 0.25, 1e-3)])
    made.start(20, 40)
    made.log(30, 0.125, 1e-3)
    rows = (tmp_path / "live/plots/metrics/loss.tsv").read_text().splitlines()
    assert rows == ["step\tloss", "10\t0.5", "20\t0.25", "30\t0.125"]


@pytest.mark.parametrize(
    ("every", "step", "checkpoint", "last", "due"),
    [
        (0, 7, False, False, False),
        (0, 7, True, False, True),
        (0, 7, False, True, False),
        (5, 10, False, False, True),
        (5, 7, True, False, False),
        (5, 7, False, True, True),
    ],
)
def test_previews_are_drawn_at_checkpoints_or_at_their_own_steps_and_the_last(
    tmp_path: Path, every: int, step: int, checkpoint: bool, last: bool, due: bool
) -> None:
    drawing = report(tmp_path, preview=lambda: Image.new("RGB", (8, 8)), preview_every=every)
    assert drawing.draws(step, checkpoint=checkpoint, last=last) is due
    assert not report(tmp_path, preview_every=every).draws(step, checkpoint=checkpoint, last=last)


def test_a_preview_that_memory_did_not_suffice_for_is_left_out_by_the_run_that_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(file=StringIO(), width=200)
    monkeypatch.setattr("etude.training.report.CONSOLE", console)

    def too_much() -> Image.Image:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        report(tmp_path, preview=too_much).draw(10)
    resumed = report(tmp_path, preview=lambda: Image.new("RGB", (8, 8)))
    resumed.draw(10)
    resumed.draw(20)
    assert [path.name for path in (resumed.folder / "previews").iterdir()] == ["000020.png"]
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert told == "warning: step 10: no preview, since memory did not suffice for it. Next: lower `preview.seeds`.\n"


def test_another_error_of_a_preview_does_not_leave_it_out(tmp_path: Path) -> None:
    def wrong() -> Image.Image:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        report(tmp_path, preview=wrong).draw(10)
    again = report(tmp_path, preview=lambda: Image.new("RGB", (8, 8)))
    again.draw(10)
    assert (again.folder / "previews/000010.png").exists()


def test_a_preview_is_drawn_again_only_where_it_is_missing(tmp_path: Path) -> None:
    red, blue = (report(tmp_path, preview=lambda colour=colour: Image.new("RGB", (8, 8), colour)) for colour in COLOURS)
    red.draw(10)
    blue.draw_again(10)
    blue.draw_again(20)
    found = [Image.open(red.folder / "previews" / f"{step:06d}.png").getpixel((0, 0)) for step in (10, 20)]
    assert found == [(255, 0, 0), (0, 0, 255)]


def test_a_run_clears_what_an_earlier_one_left_and_keeps_what_is_still_right(tmp_path: Path) -> None:
    made = report(tmp_path)
    for folder in ("checkpoints", "previews"):
        (made.folder / folder).mkdir(parents=True)
        for name in ("000010.x", "000020.x", "notes.txt"):
            (made.folder / folder / name).touch()
    made.keep({"step": 20})
    made.retain(20, state=True)
    made.clear(20, lambda step: step == 10, lambda step: step == 20)
    left = {path.parent.name + "/" + path.name for path in made.folder.glob("*/*")}
    assert left == {"checkpoints/000010.x", "checkpoints/notes.txt", "previews/000020.x", "previews/notes.txt"}
    assert made.finished == 0
    assert made.restore() == {"step": 20}
    made.clear(0, lambda _: False, lambda _: False)
    assert made.restore() is None


def test_the_state_of_an_ended_run_is_kept_only_if_a_longer_one_can_use_it(tmp_path: Path) -> None:
    made = report(tmp_path)
    made.keep({"step": 5})
    made.retain(5, state=False)
    assert made.finished == 5
    assert made.restore() is None


def test_every_process_of_a_run_encodes_texts_in_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert report(tmp_path).texts == tmp_path / "scratch/texts-0"
    monkeypatch.setenv("RANK", "3")
    assert report(tmp_path).texts == tmp_path / "scratch/texts-3"
