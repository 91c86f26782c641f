"""The faults of drawn pictures, compared with real ones: soft edges, noise, and what the autoencoder loses."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn.functional import conv2d, pad

from etude.core.params import Schema

REACH = 3  # px on each side that a blur reads


class Softness(Schema):
    """The largest softening: blur in pixels, noise in halves of the range, latent errors in standard deviations."""

    blur: float
    noise: float
    reconstructed: float
    latent_noise: float


@torch.no_grad()
def soften(images: Tensor, vae: AutoencoderKL, how: Softness, draw: random.Random) -> Tensor:
    """Pass the first ``images`` through the autoencoder, with errors in their latents; blur all, add noise to all."""
    generator = torch.Generator().manual_seed(draw.getrandbits(63))
    count = round(how.reconstructed * len(images))
    if count:
        with torch.autocast(images.device.type, torch.bfloat16):
            latents = vae.encode(images[:count]).latent_dist.mean
            error = torch.randn(latents.shape, generator=generator).to(latents)
            deviation = draw.uniform(0, how.latent_noise) / vae.config.scaling_factor
            made = vae.decode(latents + deviation * error).sample
        images = torch.cat([made.float().clamp(-1, 1), images[count:]])
    images = blur(images, [draw.uniform(0, how.blur) for _ in images])
    deviations = torch.tensor([draw.uniform(0, how.noise) for _ in images])[:, None, None, None]
    noise = deviations * torch.randn(images.shape, generator=generator)
    return (images + noise.to(images)).clamp(-1, 1)


def blur(images: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Blur each picture with a Gaussian of its own width in pixels; edges are repeated."""
    places = torch.arange(-REACH, REACH + 1, dtype=torch.float32)
    widths = torch.tensor(sigmas).clamp_min(1e-3)[:, None]
    kernels = torch.exp(-places.square() / (2 * widths.square()))
    kernels = (kernels / kernels.sum(dim=1, keepdim=True)).repeat_interleave(3, dim=0).to(images)
    count, size = len(kernels), images.shape[-1]
    flat = pad(images, (REACH,) * 4, mode="replicate").flatten(0, 1)[None]
    across = conv2d(flat, kernels[:, None, None, :], groups=count)
    return conv2d(across, kernels[:, None, :, None], groups=count).view(-1, 3, size, size)
