"""The forward process against diffusers' schedulers, in float64."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler

from etude.base.base import Base
from etude.base.text import encode_prompts
from etude.core.errors import BaseError
from etude.diffusion.noise import add_noise, original, predict, size_ids, snr, target


@pytest.fixture
def draw() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents, noise, and timesteps with both ends."""
    source = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 4, 4, 8, 8, generator=source, dtype=torch.float64)
    return latents, noise, torch.tensor([0, 1, 500, 999])


def reference(base: Base) -> DDPMScheduler:
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def test_noise_is_added_as_diffusers_adds_it(base: Base, draw: tuple[torch.Tensor, ...]) -> None:
    latents, noise, t = draw
    expected = reference(base).add_noise(latents, noise, t)
    torch.testing.assert_close(add_noise(base, latents, noise, t), expected, rtol=0, atol=1e-12)


def test_the_target_is_the_noise_or_v(base: Base, family: str, draw: tuple[torch.Tensor, ...]) -> None:
    latents, noise, t = draw
    expected = reference(base).get_velocity(latents, noise, t) if family == "sd2" else noise
    torch.testing.assert_close(target(base, latents, noise, t), expected, rtol=0, atol=1e-12)


def test_from_z_t_and_the_target_the_latents_follow(base: Base, draw: tuple[torch.Tensor, ...]) -> None:
    latents, noise, t = draw
    noisy, answer = add_noise(base, latents, noise, t), target(base, latents, noise, t)
    alphas = base.alphas_cumprod.double()[t].reshape(-1, 1, 1, 1)
    if base.prediction == "epsilon":
        found = (noisy - (1 - alphas).sqrt() * answer) / alphas.sqrt()
    else:
        found = alphas.sqrt() * noisy - (1 - alphas).sqrt() * answer
    torch.testing.assert_close(found, latents)
    torch.testing.assert_close(original(base, noisy, answer, t), latents)


def test_half_precision_latents_are_mixed_in_float32(sd1: Base, draw: tuple[torch.Tensor, ...]) -> None:
    latents, noise, t = (part.half() if part.is_floating_point() else part for part in draw)
    expected = add_noise(sd1, latents.double(), noise.double(), t)
    found = add_noise(sd1, latents, noise, t)
    assert found.dtype == torch.float16
    assert torch.equal(found, expected.half())


def test_the_signal_to_noise_ratio_falls_from_clean_to_noise(sd1: Base) -> None:
    ratios = snr(sd1, torch.arange(1000))
    assert bool((ratios.diff() < 0).all())
    # ᾱ of SD 1.5 at both ends: 0.99915 and 0.0047 (sd-scripts' and diffusers' tables)
    torch.testing.assert_close(ratios[[0, 999]], torch.tensor([1175.47, 0.0046818]), rtol=1e-3, atol=0)


def test_one_timestep_serves_a_whole_batch(base: Base) -> None:
    noisy = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    said = encode_prompts(base, ["a cat", "a dog"])
    one = predict(base, noisy, torch.tensor(500), said)
    torch.testing.assert_close(one, predict(base, noisy, torch.tensor([500, 500]), said))


def test_sdxl_is_told_the_size_of_the_picture(sd1: Base) -> None:
    ids = size_ids(sd1, torch.zeros(2, 4, 8, 16))
    assert ids.tolist() == [[64, 128, 0, 0, 64, 128]] * 2


def test_predicting_without_a_unet_says_what_to_load(sd1: Base) -> None:
    from dataclasses import replace

    said = encode_prompts(sd1, ["a cat"])
    with pytest.raises(BaseError, match="unet"):
        predict(replace(sd1, unet=None), torch.zeros(1, 4, 8, 8), torch.tensor(1), said)
