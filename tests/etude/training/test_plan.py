from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from etude.training.plan import Optimization, parse_rates

ADAMW: dict[str, Any] = {"kind": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01}
SGD = ADAMW | {"kind": "sgd", "weight_decay": 0.0}
BLOCK: dict[str, Any] = {
    "steps": 100, "batch_size": 4, "accumulation": 1, "optimizer": ADAMW, "learning_rate": 1e-3,
    "schedule": "constant", "warmup_steps": 0, "clip": 1.0, "ema": 0.0, "ema_every": 1,
    "min_snr": 0.0, "noise_offset": 0.0, "checkpoint_every": 50, "resume_every": 10, "log_every": 10,
}  # fmt: skip


def plan(**changes: Any) -> Optimization:
    return Optimization(**{**BLOCK, **changes})


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        ("0.005:100, 1e-3:1000, 1e-5", [(0.005, 100), (1e-3, 1000), (1e-5, None)]),
        ("5e-6:10000, 5e-7", [(5e-6, 10000), (5e-7, None)]),
        ("1e-3:-1", [(1e-3, None)]),
        ("1e-3", [(1e-3, None)]),
        (2e-4, [(2e-4, None)]),
    ],
)
def test_a1111s_schedule_syntax_is_read(text: str | float, rates: list[tuple[float, int | None]]) -> None:
    assert parse_rates(text) == rates


@pytest.mark.parametrize("text", ["", "fast", "1e-3:x", "-1", "nan", "1e-3:100, 1e-4:50", "1e-3, 1e-4", "0"])
def test_a_schedule_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="learning_rate"):
        parse_rates(text)


def test_a_segment_holds_up_to_and_with_its_last_step() -> None:
    rates = plan(learning_rate="0.1:2, 0.2:4, 0.3")
    assert [rates.rate(step) for step in range(6)] == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3]


def test_warm_up_rises_to_the_rate_and_cosine_falls_to_nothing() -> None:
    rates = plan(schedule="cosine", warmup_steps=10, learning_rate=1.0)
    assert rates.rate(0) == pytest.approx(0.1)
    assert rates.rate(9) == pytest.approx(1.0)
    assert rates.rate(55) == pytest.approx((1 + math.cos(math.pi / 2)) / 2)
    assert rates.rate(99) < 0.001


def test_linear_falls_straight() -> None:
    assert plan(schedule="linear", learning_rate=1.0).rate(25) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"warmup_steps": 100}, "warmup_steps"),
        ({"learning_rate": "1e-3:50"}, "ends at step 50"),
        ({"learning_rate": "1e-3:50, 1e-4", "schedule": "cosine"}, "needs `schedule: constant`"),
        ({"ema": 1.0}, "ema"),
        ({"steps": 0}, "steps"),
    ],
)
def test_impossible_combinations_are_refused_before_anything_runs(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        plan(**changes)


def test_limits_may_be_reached_and_not_passed() -> None:
    assert parse_rates("100:5, 1e-9") == [(100.0, 5), (1e-9, None)]
    with pytest.raises(ValueError, match="at most 100"):
        parse_rates("100.1")
    assert plan(steps=3000, checkpoint_every=3).checkpoint_every == 3
    with pytest.raises(ValidationError, match="makes more than 1000 checkpoints"):
        plan(steps=3001, checkpoint_every=3)
    assert plan(steps=5, warmup_steps=4).rate(3) == 1e-3
    with pytest.raises(ValidationError, match="`warmup_steps` 5 is not below `steps` 5"):
        plan(steps=5, warmup_steps=5)
    assert plan(steps=7, learning_rate="1e-3:3, 1e-4:7").rate(6) == 1e-4
    with pytest.raises(ValidationError, match="ends at step 7, before `steps` 8"):
        plan(steps=8, learning_rate="1e-3:3, 1e-4:7")
    assert [plan(learning_rate="1e-3:3, 1e-4").rate(step) for step in (2, 3)] == [1e-3, 1e-4]
