"""What a base is told to be: its device, its precision, its resolution, its prediction."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.utils import logging

from etude.base.clip import Clip
from etude.base.loading import choose_device, load_base
from etude.core.errors import BaseError
from etude.core.tensors import read_tensors, write_tensors
from tests.etude.conftest import change


@pytest.mark.parametrize(
    ("cuda", "mps", "best"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_best_device_is_taken_where_none_is_named(
    cuda: bool, mps: bool, best: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device("auto").type == best
    assert choose_device("cpu").type == "cpu"
    assert choose_device(torch.device("cuda:1")) == torch.device("cuda:1")


@pytest.mark.parametrize(("upcast", "dtype"), [(True, torch.float32), (False, torch.float16)])
def test_only_a_vae_that_says_so_stays_in_half_precision(copy: Path, upcast: bool, dtype: torch.dtype) -> None:
    change(copy / "vae/config.json", force_upcast=upcast)
    assert load_base(copy, dtype=torch.float16, parts=("vae",)).vae.dtype == dtype
    assert load_base(copy, dtype=torch.bfloat16, parts=("vae",)).vae.dtype == torch.bfloat16


def test_a_base_with_a_number_beyond_half_precision_is_refused_in_it(copy: Path) -> None:
    file = copy / "unet/diffusion_pytorch_model.safetensors"
    tensors = read_tensors(file)[0]
    tensors["conv_in.bias"][0] = 7e4
    write_tensors(file, tensors)
    with pytest.raises(
        BaseError,
        match=r"`unet\.conv_in\.bias` has numbers beyond what fp16 holds\. Next: choose `precision: bf16` or fp32",
    ):
        load_base(copy, dtype=torch.float16, parts=("unet",))
    assert load_base(copy, dtype=torch.bfloat16, parts=("unet",)).unet.dtype == torch.bfloat16
    base = load_base(copy, dtype=torch.float16, parts=("unet",), trained=lambda name: name == "unet.conv_in.bias")
    assert (base.unet.conv_in.bias.dtype, base.unet.conv_in.weight.dtype) == (torch.float32, torch.float16)


def test_a_vae_that_says_nothing_of_half_precision_stays_in_float32(copy: Path) -> None:
    file = copy / "vae/config.json"
    config = json.loads(file.read_text())
    config.pop("force_upcast", None)
    file.write_text(json.dumps(config))
    assert load_base(copy, dtype=torch.float16, parts=("vae",)).vae.dtype == torch.float32


@pytest.mark.parametrize(("size", "resolution"), [(8, 64), ([12, 10], 80), (None, 512)])
def test_the_resolution_is_that_of_the_smaller_side(copy: Path, size: Any, resolution: int) -> None:
    change(copy / "unet/config.json", sample_size=size)
    assert load_base(copy, parts=()).resolution == resolution


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"prediction_type": "sample"}, "PNDMScheduler, `prediction_type: sample`"),
        ({"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler, `prediction_type: epsilon`"),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler"},
            "FlowMatchEulerDiscreteScheduler, `prediction_type: epsilon`",
        ),
    ],
)
def test_what_predicts_otherwise_is_refused(copy: Path, values: dict[str, str], says: str) -> None:
    change(copy / "scheduler/scheduler_config.json", prediction_type="epsilon")
    assert load_base(copy, parts=()).prediction == "epsilon"
    change(copy / "scheduler/scheduler_config.json", **values)
    with pytest.raises(BaseError, match=rf"its scheduler \({says}"):
        load_base(copy, parts=())


def test_every_setting_of_the_noise_schedule_counts(copy: Path) -> None:
    file = copy / "scheduler/scheduler_config.json"
    before = load_base(copy, parts=()).alphas_cumprod
    assert len(before) == 1000
    settings: list[dict[str, Any]] = [
        {"num_train_timesteps": 900},
        {"beta_start": 0.001},
        {"beta_end": 0.02},
        {"beta_schedule": "linear"},
        {"rescale_betas_zero_snr": True},
        {"trained_betas": [0.01] * 600},
    ]
    original = file.read_text()
    for values in settings:
        change(file, **values)
        changed = load_base(copy, parts=()).alphas_cumprod
        assert changed.shape != before.shape or not torch.equal(changed, before), values
        file.write_text(original)
    change(file, rescale_betas_zero_snr=True)
    assert float(load_base(copy, parts=()).alphas_cumprod[-1]) == pytest.approx(0, abs=1e-7)


@pytest.fixture
def bars() -> Iterator[None]:
    """transformers' progress bars and warnings as they were, afterwards."""
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    yield
    logging.enable_progress_bar() if shown else logging.disable_progress_bar()
    logging.set_verbosity(level)


@pytest.mark.usefixtures("bars")
@pytest.mark.parametrize("shown", [True, False])
def test_opening_is_quiet_and_leaves_progress_bars_as_they_were(
    shown: bool, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logging.enable_progress_bar() if shown else logging.disable_progress_bar()
    logging.set_verbosity_warning()
    for open_it in (lambda: load_base(copy, parts=("text",)), lambda: Clip(copy / "clip", "cpu", "")):
        open_it()
        assert capsys.readouterr().err == ""
        assert logging.is_progress_bar_enabled() == shown
        assert logging.get_verbosity() == logging.WARNING
