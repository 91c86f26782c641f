from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from etude.base.loading import load_base
from etude.core.errors import BaseError
from etude.core.files import read_json


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


def change(base: Path, file: str, **values: Any) -> None:
    (base / file).write_text(json.dumps(read_json(base / file) | values))  # NaN too, as other programs write it


@pytest.mark.parametrize(
    "values",
    [
        {"beta_schedule": "foo"},
        {"beta_start": "x"},
        {"beta_end": None},
        {"beta_start": math.nan},
        {"beta_end": 50.0},
        {"num_train_timesteps": "1000"},
        {"num_train_timesteps": 0},
        {"trained_betas": [0.1, 0.2]},
    ],
    ids=str,
)
def test_a_schedule_without_growing_noise_is_refused(base: Path, values: dict[str, Any]) -> None:
    change(base, "scheduler/scheduler_config.json", **values)
    with pytest.raises(BaseError, match=r"scheduler_config\.json.*Next"):
        load_base(base, parts=())


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler"])
def test_a_scheduler_of_another_kind_of_model_is_refused(base: Path, name: str) -> None:
    change(base, "scheduler/scheduler_config.json", _class_name=name)
    with pytest.raises(BaseError, match=name):
        load_base(base, parts=())


@pytest.mark.parametrize("factor", [0, math.nan, -1.0, None, "abc", [1], True], ids=str)
def test_a_scaling_factor_that_is_no_positive_number_is_refused(base: Path, factor: Any) -> None:
    change(base, "vae/config.json", scaling_factor=factor)
    with pytest.raises(BaseError, match="scaling_factor"):
        load_base(base, parts=())


@pytest.mark.parametrize("name", ["shift_factor", "latents_mean"])
def test_a_vae_that_shifts_latents_is_refused(base: Path, name: str) -> None:
    change(base, "vae/config.json", **{name: 0.1159})
    with pytest.raises(BaseError, match=name):
        load_base(base, parts=())


@pytest.mark.parametrize("size", ["64", -8, [64, "64"], 1.5], ids=str)
def test_a_sample_size_that_is_no_positive_number_is_refused(base: Path, size: Any) -> None:
    change(base, "unet/config.json", sample_size=size)
    with pytest.raises(BaseError, match="sample_size"):
        load_base(base, parts=())


def test_noise_may_end_at_no_signal_at_all(base: Path) -> None:
    change(base, "scheduler/scheduler_config.json", rescale_betas_zero_snr=True)
    assert load_base(base, parts=()).alphas_cumprod[-1] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("text", ["{", '{"a": 0}', "[]"])
def test_a_damaged_tokenizer_is_one_line(base: Path, text: str) -> None:
    (base / "tokenizer/vocab.json").write_text(text)
    with pytest.raises(BaseError, match=r"tokenizer.*Next"):
        load_base(base, parts=("text",))
