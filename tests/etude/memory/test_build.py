"""The memory of builds, counted on tensors without values, against what arithmetic says."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from etude.base.whole import empty_model
from etude.core.families import FAMILIES
from etude.core.method import load_method
from etude.memory.build import _STATES, Footprint, Setup, UncountedError, count_build
from etude.training.optimizer import PACKAGES, Optimizer
from etude.training.updates import make_optimizer
from tests.etude.conftest import change
from tests.etude.training.test_plan import ADAMW, SGD
from tests.pipelines.learning import params_of

COUNTED: dict[str, Footprint] = {}
DEVICES: tuple[Literal["cuda", "cpu"], ...] = ("cuda", "cpu")
SMALL = 1 << 16  # bytes: what rounding each of some tensors to blocks adds


@pytest.fixture(scope="module")
def setup(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """A base with few layers, because each operation takes time to count."""
    base = Path(shutil.copytree(tiny_base, tmp_path_factory.mktemp("few") / "base"))
    change(base / "unet/config.json", layers_per_block=1)
    change(base / "vae/config.json", layers_per_block=1)
    change(base / "text_encoder/config.json", num_hidden_layers=2)
    return Setup(base, "sd1", 64, "fp32")


def count(
    setup: Setup, method: str, training: dict[str, Any] | None = None, *, previews: bool = False, **changes: Any
) -> Footprint:
    """The same count is made once: it takes seconds."""
    key = repr((setup, method, training, previews, changes))
    if key not in COUNTED:
        params: Any = params_of(method, training, **changes)
        if hasattr(params, "preview") and not previews:
            params = params.model_copy(update={"preview": params.preview.model_copy(update={"seeds": []})})
        COUNTED[key] = count_build(load_method(method), method, params, setup)
    return COUNTED[key]


@cache
def bytes_of(path: Path, part: str) -> int:
    """The size of a part's weights in float32."""
    return sum(4 * each.numel() for each in empty_model(path, path / part, FAMILIES["sd1"], part).parameters())


def test_what_no_step_uses_waits_on_the_host_and_comes_for_previews(setup: Setup) -> None:
    frozen, words = count(setup, "lora", previews=True), count(setup, "textual_inversion")
    size = {part: bytes_of(setup.base, part) for part in ("unet", "vae", "text_encoder")}
    assert frozen.weights == pytest.approx(size["unet"], rel=0.2)
    assert words.weights - frozen.weights == pytest.approx(size["text_encoder"], rel=0.2)
    assert frozen.start > frozen.weights + size["text_encoder"]  # the preview's texts are encoded before training
    assert frozen.previews > size["vae"]


def test_on_the_cpu_nothing_waits_elsewhere_and_norms_are_in_16_bits(setup: Setup) -> None:
    half = replace(setup, precision="bf16")
    counts = (count(replace(half, device=device), "lora", previews=True, base_precision="bf16") for device in DEVICES)
    cuda, cpu = counts
    size = {part: bytes_of(setup.base, part) / 2 for part in ("vae", "text_encoder")}
    assert cpu.weights - cuda.weights == pytest.approx(size["vae"], rel=0.3)  # many small tensors, each in whole blocks
    assert cpu.activations < cuda.activations


def test_text_encoders_are_freed_when_all_texts_are_encoded(setup: Setup) -> None:
    on_cpu = replace(setup, device="cpu")
    frozen, trained = (count(on_cpu, "lora", text_encoder_rate=rate) for rate in (0.0, 1.0))
    size = bytes_of(setup.base, "text_encoder")
    assert trained.weights - frozen.weights == pytest.approx(size, rel=0.2)
    assert frozen.start > frozen.weights + size


def test_training_the_unet_takes_a_gradient_and_two_states_for_each_of_its_values(setup: Setup) -> None:
    found, size = count(setup, "dreambooth", {"optimizer": ADAMW, "ema": 0.0}), bytes_of(setup.base, "unet")
    assert found.gradients == pytest.approx(size, rel=0.2)  # each tensor takes whole blocks
    assert size * 2 <= found.optimizer < size * 2.5
    assert found.learned < SMALL  # what is learned takes the place of the base's weights, which wait on the host


def test_an_average_is_on_the_host_while_a_preview_is_drawn_too(setup: Setup) -> None:
    without, found = (
        count(setup, "dreambooth", {"optimizer": SGD, "ema": decay}, previews=True) for decay in (0.0, 0.9)
    )
    assert found.previews > SMALL
    assert (found.learned, found.previews, found.peak) == (without.learned, without.previews, without.peak)


def test_states_of_8_bits_are_fewer_bytes_and_need_no_package(setup: Setup) -> None:
    kinds = (ADAMW | {"kind": kind} for kind in ("adamw", "adamw8bit"))
    whole, short = (count(setup, "dreambooth", {"optimizer": kind, "ema": 0.0}) for kind in kinds)
    assert 0 < short.optimizer < whole.optimizer


def test_gradient_release_has_no_gradients_at_once_and_trained_weights_in_half_are_half(setup: Setup) -> None:
    whole = count(setup, "dreambooth", {"optimizer": ADAMW, "ema": 0.0})
    switches = {"gradient_release": True, "trained_precision": "bf16", "base_precision": "bf16", "recompute": True}
    plan = {"optimizer": ADAMW, "ema": 0.0, "clip": 0.0, "batch_size": 1}
    half = count(replace(setup, precision="bf16"), "dreambooth", plan, **switches)
    assert half.gradients == 0 < whole.gradients
    assert half.weights == pytest.approx(whole.weights / 2, rel=0.2)
    assert half.optimizer == pytest.approx(whole.optimizer, rel=0.1)  # in float32
    assert half.peak < whole.peak - whole.gradients


@pytest.mark.parametrize("kind", sorted(_STATES))
def test_states_have_the_size_that_those_of_the_package_have(kind: str) -> None:
    pytest.importorskip(PACKAGES[kind])
    for shape in ((3, 5), (64, 64), (65, 70)):
        tensor = torch.ones(shape, requires_grad=True)
        optimizer = make_optimizer([[tensor]], Optimizer(**ADAMW | {"kind": kind}))
        tensor.square().sum().backward()
        optimizer.step()
        states = {name: state for name, state in optimizer.state[tensor].items() if isinstance(state, torch.Tensor)}
        shared = {"qmap1", "qmap2"}  # one for all tensors
        assert (
            sum(state.nbytes for name, state in states.items() if name not in shared)
            == _STATES[kind](tensor.numel())[0]
        )


def test_states_have_the_size_that_the_packages_describe_where_they_are_not_installed() -> None:
    sizes = {kind: [size(values) for values in (4095, 4096, 4097)] for kind, size in _STATES.items()}
    eight = [(2 * 4 * 4095, 0), (2 * 4096 + 2 * 4 * 16, 0), (2 * 4097 + 2 * 4 * 17, 0)]  # 256 values share a scale
    prodigy = [(4 * 4 * values, 0) for values in (4095, 4096, 4097)]
    schedule_free = [(2 * 4 * values, 4 * values) for values in (4095, 4096, 4097)]
    assert sizes == {"adamw8bit": eight, "prodigy": prodigy, "schedule_free": schedule_free}


def test_recomputing_keeps_less_for_the_way_back(setup: Setup) -> None:
    kept, recomputed = (count(setup, "fine_tuning", recompute=switch) for switch in (False, True))
    assert recomputed.activations < kept.activations


def test_a_larger_batch_needs_more_for_a_step_and_no_more_for_what_stays(setup: Setup) -> None:
    one, four = (count(setup, "lora", {"batch_size": size}) for size in (1, 4))
    assert four.activations > 3 * one.activations
    assert (four.weights, four.learned, four.optimizer) == (one.weights, one.learned, one.optimizer)


def test_pictures_are_counted_as_the_batch_that_a_step_uses(setup: Setup) -> None:
    one, four = (count(setup, "lora", {"batch_size": size}) for size in (1, 4))
    assert one.stays == four.stays  # no latents and no texts stay


@pytest.mark.parametrize("method", ["textual_inversion", "hypernetwork", "dream_artist", "custom_diffusion"])
def test_every_method_that_learns_in_steps_is_counted(setup: Setup, method: str) -> None:
    found = count(setup, method)
    assert found.gradients > 0
    assert found.activations > SMALL
    assert found.optimizer > found.gradients


def test_null_text_inversion_keeps_less_with_its_switches_and_decodes_without_the_unet(setup: Setup) -> None:
    whole, recomputed = (count(setup, "null_text_inversion", recompute=switch) for switch in (False, True))
    half = count(replace(setup, precision="bf16"), "null_text_inversion", base_precision="bf16")
    assert recomputed.activations < whole.activations
    assert half.weights < 0.6 * whole.weights
    assert whole.previews < bytes_of(setup.base, "vae") + 4 * 64 * 64 * 4 * 1000 - bytes_of(setup.base, "unet")


@pytest.mark.parametrize("method", ["model_merge", "aesthetic_gradient", "clip_inversion"])
def test_a_method_that_is_not_counted_says_why(setup: Setup, method: str) -> None:
    with pytest.raises(UncountedError, match="its memory is not counted: it .*Next"):
        count(setup, method)


@pytest.mark.slow
def test_a_lora_of_sdxl_fits_a_card_of_8_gb_with_a_base_in_half_precision_and_recomputing(setup: Setup) -> None:
    true = replace(setup, base=Path("not/here"), family="sdxl", resolution=1024, precision="bf16")
    changes: Any = {"rank": 16, "alpha": 16.0, "targets": ["attention"], "text_encoder_rate": 0.0}
    found = count(true, "lora", {"batch_size": 1}, base_precision="bf16", recompute=True, **changes)
    assert found.weights == pytest.approx(2 * 2_567_463_684, rel=0.01)  # the UNet's published number of parameters
    assert found.peak < 7.0e9


@pytest.mark.slow
def test_fine_tuning_of_sdxl_in_bf16_without_an_average_fits_12_5_gb(setup: Setup) -> None:
    true = replace(setup, base=Path("not/here"), family="sdxl", resolution=1024, precision="bf16")
    switches = {"base_precision": "bf16", "trained_precision": "bf16", "gradient_release": True, "recompute": True}
    plan = {"ema": 0.0, "clip": 0.0, "batch_size": 1, "accumulation": 1}
    eight_bit, adafactor = (
        count(true, "fine_tuning", plan | {"optimizer": ADAMW | {"kind": kind}}, **switches)
        for kind in ("adamw8bit", "adafactor")
    )
    assert eight_bit.weights == pytest.approx(2 * 2_567_463_684, rel=0.01)  # the UNet alone, in bf16
    assert 2 * 2_567_463_684 < eight_bit.optimizer < 2.1 * 2_567_463_684
    assert adafactor.peak < eight_bit.peak < 12.5e9
