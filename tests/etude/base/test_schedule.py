from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from etude.base.loading import load_base
from etude.base.schedule import read_alphas, read_prediction, read_scaling, read_side
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
        {"trained_betas": [-0.005] + [0.01] * 999},
        {"trained_betas": [0.01] * 999 + [1.5]},
        {"trained_betas": [0.01] * 500 + [0.0] + [0.01] * 499},
    ],
    ids=str,
)
def test_a_schedule_without_growing_noise_is_refused(copy: Path, values: dict[str, Any]) -> None:
    change(copy / "scheduler/scheduler_config.json", **values)
    with pytest.raises(BaseError, match=r"scheduler_config\.json.*Next"):
        load_base(copy, parts=())


def test_the_reason_that_diffusers_gives_is_told() -> None:
    with pytest.raises(BaseError, match=r"has no noise schedule \(NotImplementedError: foo is not implemented"):
        read_alphas(Path("base"), {"beta_schedule": "foo"})


@pytest.mark.parametrize(
    "factor", [0, math.nan, math.inf, -1.0, None, "abc", [1], True, 10**400], ids=lambda factor: str(factor)[:9]
)
def test_a_scaling_factor_that_is_no_positive_number_is_refused(copy: Path, factor: Any) -> None:
    change(copy / "vae/config.json", scaling_factor=factor)
    with pytest.raises(BaseError, match="scaling_factor"):
        load_base(copy, parts=())


@pytest.mark.parametrize("name", ["shift_factor", "latents_mean"])
def test_a_vae_that_shifts_latents_is_refused(copy: Path, name: str) -> None:
    change(copy / "vae/config.json", **{name: 0.1159})
    with pytest.raises(BaseError, match=name):
        load_base(copy, parts=())


@pytest.mark.parametrize("size", ["64", -8, 0, [], [64, "64"], 1.5], ids=str)
def test_a_sample_size_that_is_no_positive_number_is_refused(copy: Path, size: Any) -> None:
    change(copy / "unet/config.json", sample_size=size)
    with pytest.raises(BaseError, match="sample_size"):
        load_base(copy, parts=())


@pytest.mark.parametrize(
    ("unet", "side"),
    [
        ({}, 64),
        ({"sample_size": None}, 64),
        ({"sample_size": 1}, 1),
        ({"sample_size": 1024}, 1024),
        ({"sample_size": [96, 64]}, 64),
    ],
)
def test_the_side_of_latents_is_the_shorter_one_up_to_1024(unet: dict[str, Any], side: int) -> None:
    assert read_side(Path("base"), unet) == side
    with pytest.raises(BaseError, match="sample_size 1025"):
        read_side(Path("base"), {"sample_size": 1025})


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear"])
def test_a_schedule_has_at_least_500_steps(schedule: str) -> None:
    own = {"beta_schedule": schedule, "beta_start": 0.001, "beta_end": 0.012}
    assert len(read_alphas(Path("base"), own)) == 1000
    alphas = read_alphas(Path("base"), {**own, "num_train_timesteps": 500})
    betas = [0.001 + 0.011 * t / 499 for t in range(500)]
    if schedule == "scaled_linear":
        betas = [(0.001**0.5 + (0.012**0.5 - 0.001**0.5) * t / 499) ** 2 for t in range(500)]
    assert alphas.tolist() == pytest.approx([math.prod(1 - β for β in betas[: t + 1]) for t in range(500)], rel=1e-4)
    with pytest.raises(BaseError, match="grows, over 500 steps or more"):
        read_alphas(Path("base"), {**own, "num_train_timesteps": 499})


def test_a_schedule_may_end_without_any_signal() -> None:
    alphas = read_alphas(Path("base"), {"trained_betas": [0.0] + [0.01] * 998 + [1.0]})
    assert (float(alphas[0]), float(alphas[-1])) == (1.0, 0.0)


def test_what_a_configuration_leaves_out_is_as_in_stable_diffusion_1() -> None:
    assert read_prediction(Path("base"), {}) == "epsilon"
    assert read_scaling(Path("base"), {"block_out_channels": [8, 8, 8, 8]}) == 0.18215


@pytest.mark.parametrize(
    ("scheduler", "fault"),
    [
        ({"prediction_type": "sample"}, "of no class, `prediction_type: sample`"),
        ({"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler, `prediction_type: epsilon`"),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler"},
            "FlowMatchEulerDiscreteScheduler, `prediction_type: epsilon`",
        ),
    ],
)
def test_other_kinds_of_noise_and_of_predictions_are_refused(scheduler: dict[str, Any], fault: str) -> None:
    with pytest.raises(BaseError, match=fault):
        read_prediction(Path("base"), scheduler)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"latent_channels": 16}, r"16 latent channels and `block_out_channels: \[8, 8, 8, 8\]`"),
        ({"block_out_channels": [8, 8, 8]}, r"4 latent channels and `block_out_channels: \[8, 8, 8\]`"),
        ({"block_out_channels": 8}, "4 latent channels and `block_out_channels: 8`"),
        ({"_class_name": "AutoencoderTiny"}, "of the class AutoencoderTiny"),
    ],
)
def test_a_vae_of_another_kind_is_refused(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(BaseError, match=fault):
        read_scaling(Path("base"), {"block_out_channels": [8, 8, 8, 8]} | changes)


@pytest.mark.parametrize("text", ["{", '{"a": 0}', "[]"])
def test_a_damaged_tokenizer_is_one_line(copy: Path, text: str) -> None:
    (copy / "tokenizer/vocab.json").write_text(text)
    with pytest.raises(BaseError, match=r"tokenizer.*Next"):
        load_base(copy, parts=("text",))


@pytest.mark.parametrize("length", ["77", [77], {}])
def test_a_tokenizer_that_cannot_read_a_text_is_refused_when_it_is_loaded(copy: Path, length: Any) -> None:
    change(copy / "tokenizer/tokenizer_config.json", model_max_length=length)
    with pytest.raises(BaseError, match=r"tokenizer.*Next"):
        load_base(copy, parts=("text",))
