"""The packages that kinds of optimizers need, and what their settings exclude."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from etude.core.errors import ParamsError
from etude.training import optimizer
from etude.training.optimizer import Optimizer, refuse_missing
from tests.etude.training.test_plan import ADAMW

PATH = Path("pipelines/lora/params.yaml")
NEEDED = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt", "schedule_free": "schedulefree"}


@pytest.mark.parametrize(("kind", "package"), NEEDED.items())
def test_a_kind_whose_package_is_missing_is_refused_with_the_command(
    kind: Any, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Optimizer(**ADAMW | {"kind": kind})
    monkeypatch.setattr(optimizer, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(ParamsError, match=rf"{PATH}: .*{kind}` needs {package}, which is not .*EXTRAS=gpu"):
        refuse_missing(settings, PATH)
    monkeypatch.setattr(optimizer, "find_spec", lambda name: object() if name == package else None)
    refuse_missing(settings, PATH)


@pytest.mark.parametrize("kind", ["adamw", "adafactor", "sgd"])
def test_other_kinds_need_no_package(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer, "find_spec", lambda _: None)
    refuse_missing(Optimizer(**ADAMW | {"kind": kind}), PATH)


def test_a_decay_of_0_by_which_schedule_free_divides_is_refused_for_it_alone() -> None:
    none = ADAMW | {"betas": [0.0, 0.0]}
    assert Optimizer(**none).betas == [0, 0]
    assert Optimizer(**none | {"kind": "schedule_free", "betas": [0.5, 0.0]}).betas == [0.5, 0]
    with pytest.raises(ValueError, match="by which schedule_free divides"):
        Optimizer(**none | {"kind": "schedule_free"})
