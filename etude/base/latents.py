"""From pictures to latents and back, with the VAE (Rombach et al., 2022, arXiv:2112.10752)."""

from __future__ import annotations

import torch
from torch import Tensor

from etude.base.base import Base
from etude.core.errors import BaseError, InputError


@torch.no_grad()
def encode_images(base: Base, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance [B, 4, H/8, W/8] of uint8 pictures [B, H, W, 3], unscaled, in float32 or wider.

    Raises InputError if the sides are not multiples of 8.
    """
    _need_vae(base)
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise InputError("images", f"are {images.dtype} {list(images.shape)}", "give uint8 [B, H, W, 3]")
    if any(side % base.factor for side in images.shape[1:3]):
        size = f"{images.shape[2]} × {images.shape[1]} px"
        raise InputError(
            "images", f"of {size} have sides that are no multiples of {base.factor}", "crop or resize them"
        )
    pixels = images.to(base.device).permute(0, 3, 1, 2).to(base.vae.dtype) / 127.5 - 1
    moments = base.vae.encode(pixels).latent_dist
    dtype = torch.promote_types(base.vae.dtype, torch.float32)
    return moments.mean.to(dtype), moments.logvar.to(dtype)


def sample_latents(mean: Tensor, logvar: Tensor, noise: Tensor, scaling_factor: float) -> Tensor:
    """z = (mean + σ · noise) · scaling_factor, all [B, 4, h, w]: a sample of the VAE's distribution."""
    return (mean + torch.exp(0.5 * logvar) * noise) * scaling_factor


@torch.no_grad()
def decode_latents(base: Base, latents: Tensor) -> Tensor:
    """Pictures uint8 [B, 8h, 8w, 3] on the CPU, from scaled latents [B, 4, h, w]."""
    return (decode_pixels(base, latents) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()


def decode_pixels(base: Base, latents: Tensor) -> Tensor:
    """Pictures [B, 3, 8h, 8w] in 0..1 on the base's device; differentiable. Computed in the VAE's own precision."""
    _need_vae(base)
    with torch.autocast(base.device.type, enabled=False):  # in float16, many a VAE overflows
        pixels: Tensor = base.vae.decode(latents.to(base.vae.dtype) / base.scaling_factor, return_dict=False)[0]
    return (pixels / 2 + 0.5).clamp(0, 1)


def _need_vae(base: Base) -> None:
    if base.vae is None:
        raise BaseError(base.path, "was loaded without its vae", 'add "vae" to the `parts` of load_base')
