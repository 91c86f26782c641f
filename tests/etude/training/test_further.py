"""Which saved states a run goes on from, and which not, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from etude.training.further import usable_state
from etude.training.report import Report
from tests.etude.training.test_plan import plan


def found(
    tmp_path: Path, state: dict[str, Any] | None, finished: int, **changes: Any
) -> tuple[dict[str, Any] | None, list[Any]]:
    """The state from which a run goes on, and its curve so far."""
    report = Report(tmp_path / "scratch", 1, "cpu", "fp32", history=[(5, 0.5, 1e-3)])
    if state is not None:
        report.keep(state)
    if finished:
        report.scratch.mkdir(parents=True, exist_ok=True)
        report.retain(finished, state=True)
    return usable_state(report, plan(**{"steps": 40, "checkpoint_every": 20, **changes})), report.history


@pytest.mark.parametrize(
    ("state", "finished", "changes"),
    [
        ({"step": 30, "steps": 40}, 0, {"schedule": "cosine"}),
        ({"step": 30, "steps": 20}, 0, {}),
        ({"step": 40, "steps": 90}, 0, {}),
        ({"step": 20, "steps": 20}, 20, {}),
        ({"step": 30, "steps": 30, "averaged": 28}, 30, {"ema": 0.9, "ema_every": 7}),
        ({"step": 28, "steps": 28, "averaged": 28}, 28, {"ema": 0.9, "ema_every": 7}),
        ({"step": 20, "steps": 20, "averaged": 20}, 20, {"ema": 0.9, "ema_every": 7}),  # a checkpoint's
        ({"step": 30, "steps": 30, "averaged": 30}, 30, {"ema": 0.0, "ema_every": 7}),
    ],
)
def test_a_run_goes_on_where_all_steps_at_once_would_have_passed(
    tmp_path: Path, state: dict[str, Any], finished: int, changes: dict[str, Any]
) -> None:
    assert found(tmp_path, state, finished, **changes) == (state, [(5, 0.5, 1e-3)])


@pytest.mark.parametrize(
    ("state", "finished", "changes", "said"),
    [
        ({"step": 40, "steps": 40}, 40, {}, ""),
        ({"step": 20, "steps": 20}, 20, {"schedule": "linear"}, "`schedule: linear` depends on `steps`, which was 20"),
        ({"step": 50, "steps": 90}, 0, {}, "the saved state is that of step 50, and `steps` is 40"),
        ({"step": 30, "steps": 30, "averaged": 30}, 30, {"ema": 0.9, "ema_every": 7}, "the average has step 30"),
    ],
)  # fmt: skip
def test_a_run_starts_from_scratch_with_the_reason_where_it_would_end_otherwise(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    state: dict[str, Any],
    finished: int,
    changes: dict[str, Any],
    said: str,
) -> None:
    assert found(tmp_path, state, finished, **changes) == (None, [])
    told = " ".join(capsys.readouterr().err.split())
    assert told.startswith(f"starts from scratch: {said}") if said else told == ""


def test_without_a_state_a_run_starts(tmp_path: Path) -> None:
    assert found(tmp_path, None, 0)[0] is None
