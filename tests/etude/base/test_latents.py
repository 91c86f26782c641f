"""Pictures to latents and back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from etude.base import latents as latents_module
from etude.base.base import Base
from etude.base.latents import decode_latents, decode_pixels, encode_images, sample_latents
from etude.core.errors import BaseError, InputError


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_moments_are_the_vaes_of_pixels_in_minus_one_to_one(sd1: Base, pictures: torch.Tensor) -> None:
    mean, logvar = encode_images(sd1, pictures)
    inside = pictures.permute(0, 3, 1, 2).double() / 255 * 2 - 1
    expected = sd1.vae.encode(inside).latent_dist
    assert mean.shape == logvar.shape == (2, 4, 8, 12)
    torch.testing.assert_close(mean, expected.mean)
    torch.testing.assert_close(logvar, expected.logvar)


def test_moments_are_at_least_float32(sd1: Base, pictures: torch.Tensor) -> None:
    import copy

    half = replace(sd1, vae=copy.deepcopy(sd1.vae).to(torch.bfloat16))
    assert {moment.dtype for moment in encode_images(half, pictures)} == {torch.float32}


def test_a_sample_has_the_scaled_mean_and_spread(sd1: Base) -> None:
    mean, logvar = torch.full((1, 4, 2, 2), 3.0), torch.full((1, 4, 2, 2), 2 * torch.log(torch.tensor(0.5)))
    one = sample_latents(mean, logvar, torch.ones_like(mean), sd1.scaling_factor)
    torch.testing.assert_close(one, torch.full_like(mean, 3.5 * 0.18215))


def test_decoded_pictures_are_bytes_of_the_right_size(sd1: Base, pictures: torch.Tensor) -> None:
    mean, logvar = encode_images(sd1, pictures)
    latents = sample_latents(mean, logvar, torch.zeros_like(mean), sd1.scaling_factor)
    found = decode_latents(sd1, latents)
    assert (found.dtype, found.shape) == (torch.uint8, (2, 64, 96, 3))
    exact = sd1.vae.decode(mean).sample / 2 + 0.5
    difference = found.permute(0, 3, 1, 2) / 255 - exact.clamp(0, 1)
    assert float(difference.abs().max()) <= 0.5 / 255 + 1e-6


def test_gradients_flow_through_decoding(sd1: Base) -> None:
    latents = torch.zeros(1, 4, 8, 8, dtype=torch.float64, requires_grad=True)
    decode_pixels(sd1, latents).sum().backward()
    assert latents.grad is not None
    assert float(latents.grad.abs().sum()) > 0


@pytest.mark.parametrize(
    ("pictures", "says"),
    [
        (torch.zeros(1, 60, 64, 3, dtype=torch.uint8), "64 × 60 px"),
        (torch.zeros(1, 64, 64, 3), "uint8"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "uint8"),
        (torch.zeros(64, 64, 3, dtype=torch.uint8), "uint8"),
    ],
)
def test_other_pictures_are_refused(sd1: Base, pictures: torch.Tensor, says: str) -> None:
    with pytest.raises(InputError, match=says):
        encode_images(sd1, pictures)


def test_encoding_and_decoding_without_a_vae_say_what_to_load(sd1: Base) -> None:
    without = replace(sd1, vae=None)
    with pytest.raises(BaseError, match='"vae"'):
        encode_images(without, torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    for decode in (decode_latents, decode_pixels):
        with pytest.raises(BaseError, match='"vae"'):
            decode(without, torch.zeros(1, 4, 8, 8))


def test_large_pictures_are_decoded_one_after_another_and_very_large_ones_in_tiles(
    sd1: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = torch.randn(2, 4, 24, 16, generator=torch.Generator().manual_seed(1))
    sizes: list[tuple[int, ...]] = []
    watch = sd1.vae.decoder.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape)))
    try:
        whole = decode_latents(sd1, values).int()
        monkeypatch.setattr(latents_module, "AT_ONCE", 64 * 24 * 16)
        one_by_one = decode_latents(sd1, values).int()
        monkeypatch.setattr(latents_module, "TILE", 16)
        monkeypatch.setattr(latents_module, "AT_ONCE", 64 * 16 * 16)
        tiled = decode_latents(sd1, values).int()
        calls = len(sizes)
        decode_latents(sd1, values[:, :, :16])  # not above the bound: whole
    finally:
        watch.remove()
    assert sizes[:3] == [(2, 4, 24, 16), (1, 4, 24, 16), (1, 4, 24, 16)]
    assert {size[0] for size in sizes[3:]} == {1}
    assert max(size[2] for size in sizes[3:]) == 16
    assert sizes[calls:] == [(1, 4, 16, 16)] * 2
    assert tiled.shape == whole.shape == (2, 192, 128, 3)
    assert (one_by_one - whole).abs().max() <= 1
    between = (whole[0] - whole[1]).float().abs().mean()  # a tile has its own means in the norms of groups
    assert (tiled - whole).float().abs().mean() < between / 3
