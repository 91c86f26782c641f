from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from etude.base.loading import load_base
from etude.core.errors import BaseError
from tests.etude.conftest import change


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
        {"trained_betas": 2},
    ],
    ids=str,
)
def test_a_schedule_without_growing_noise_is_refused(copy: Path, values: dict[str, Any]) -> None:
    change(copy / "scheduler/scheduler_config.json", **values)
    with pytest.raises(BaseError, match=r"scheduler_config\.json.*Next"):
        load_base(copy, parts=())


@pytest.mark.parametrize("factor", [0, math.nan, -1.0, None, "abc", [1], True], ids=str)
def test_a_scaling_factor_that_is_no_positive_number_is_refused(copy: Path, factor: Any) -> None:
    change(copy / "vae/config.json", scaling_factor=factor)
    with pytest.raises(BaseError, match="scaling_factor"):
        load_base(copy, parts=())


@pytest.mark.parametrize("name", ["shift_factor", "latents_mean"])
def test_a_vae_that_shifts_latents_is_refused(copy: Path, name: str) -> None:
    change(copy / "vae/config.json", **{name: 0.1159})
    with pytest.raises(BaseError, match=name):
        load_base(copy, parts=())


@pytest.mark.parametrize("size", ["64", -8, [64, "64"], 1.5], ids=str)
def test_a_sample_size_that_is_no_positive_number_is_refused(copy: Path, size: Any) -> None:
    change(copy / "unet/config.json", sample_size=size)
    with pytest.raises(BaseError, match="sample_size"):
        load_base(copy, parts=())


@pytest.mark.parametrize("text", ["{", '{"a": 0}', "[]"])
def test_a_damaged_tokenizer_is_one_line(copy: Path, text: str) -> None:
    (copy / "tokenizer/vocab.json").write_text(text)
    with pytest.raises(BaseError, match=r"tokenizer.*Next"):
        load_base(copy, parts=("text",))
