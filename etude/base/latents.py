"""From pictures to latents and back, with the VAE (Rombach et al., 2022, arXiv:2112.10752)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from etude.base.base import Base
from etude.base.waiting import present
from etude.core.errors import BaseError, InputError

TILE = 96  # latents, side of a tile
AT_ONCE = (8 * TILE) ** 2  # pixels that the VAE decodes at once: above the 512 px of SD 1.5, and below SDXL's 1024


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
        fault = f"are {size}: both sides must be multiples of {base.factor}"
        raise InputError("images", fault, "crop or resize them")
    pixels = images.to(base.device).permute(0, 3, 1, 2).to(base.vae.dtype) / 127.5 - 1
    with present(base, "vae"):
        moments = base.vae.encode(pixels).latent_dist
    dtype = torch.promote_types(base.vae.dtype, torch.float32)
    return moments.mean.to(dtype), moments.logvar.to(dtype)


def sample_latents(mean: Tensor, logvar: Tensor, noise: Tensor, scaling_factor: float) -> Tensor:
    """z = (mean + σ · noise) · scaling_factor, all [B, 4, h, w]: a sample of the VAE's distribution."""
    return (mean + torch.exp(0.5 * logvar) * noise) * scaling_factor


@torch.no_grad()
def decode_latents(base: Base, latents: Tensor) -> Tensor:
    """Pictures uint8 [B, 8h, 8w, 3] on the CPU, from scaled latents [B, 4, h, w]; large ones a few at a time."""
    count = max(1, AT_ONCE // _pixels_of(base, latents))
    pictures: list[Tensor] = []
    with present(base, "vae"):
        for part in torch.split(latents, count):
            pictures.append((decode_pixels(base, part) * 255).round().to(torch.uint8).cpu())
    return torch.cat(pictures).permute(0, 2, 3, 1)


def decode_pixels(base: Base, latents: Tensor) -> Tensor:
    """Pictures [B, 3, 8h, 8w] in 0..1 on the base's device; differentiable. Computed in the VAE's own precision.

    A picture of more than AT_ONCE pixels is decoded in tiles that overlap by a quarter.
    """
    _need_vae(base)
    large = _pixels_of(base, latents) > AT_ONCE
    scaled = latents.to(base.vae.dtype) / base.scaling_factor
    with present(base, "vae"), torch.autocast(base.device.type, enabled=False):  # in float16, many VAEs overflow
        pixels = _in_tiles(base.vae, scaled) if large else base.vae.decode(scaled, return_dict=False)[0]
    return (pixels / 2 + 0.5).clamp(0, 1)


def _pixels_of(base: Base, latents: Tensor) -> int:
    """The number of pixels of one picture."""
    return base.factor**2 * latents.shape[2] * latents.shape[3]


def _in_tiles(vae: Any, scaled: Tensor) -> Tensor:
    """Pixels [B, 3, 8h, 8w], about -1 to 1, decoded in tiles of TILE latents whose borders are blended."""
    vae.tile_latent_min_size, vae.tile_sample_min_size = TILE, 8 * TILE
    pixels: Tensor = vae.tiled_decode(scaled, return_dict=False)[0]
    return pixels


def _need_vae(base: Base) -> None:
    if base.vae is None:
        raise BaseError(base.path, "was loaded without its vae", 'add "vae" to the `parts` of load_base')
