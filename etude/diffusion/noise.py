"""The forward process and the UNet's prediction (Ho et al., 2020, arXiv:2006.11239; v: arXiv:2202.00512).

z_t = √ᾱ_t z + √(1 - ᾱ_t) ε, with latents z and noise ε [B, 4, h, w], and integer timesteps t [B].
"""

from __future__ import annotations

import torch
from torch import Tensor

from etude.base.base import Base
from etude.base.conditioning import Conditioning
from etude.base.unclip import with_image
from etude.core.errors import BaseError
from etude.core.families import FAMILIES


def add_noise(base: Base, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """z_t = √ᾱ z + √(1 - ᾱ) ε."""
    signal, spread = _coefficients(base, t, latents)
    return (signal * latents + spread * noise).to(latents.dtype)


def target(base: Base, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The UNet's target for z_t: ε, or v = √ᾱ ε - √(1 - ᾱ) z."""
    if base.prediction == "epsilon":
        return noise
    signal, spread = _coefficients(base, t, latents)
    return (signal * noise - spread * latents).to(latents.dtype)


def original(base: Base, noisy: Tensor, answer: Tensor, t: Tensor) -> Tensor:
    """The latents ẑ from the UNet's output for ``noisy`` at t [B]: (z_t - √(1-ᾱ) ε)/√ᾱ, or √ᾱ z_t - √(1-ᾱ) v."""
    signal, spread = _coefficients(base, t, noisy)
    if base.prediction == "epsilon":
        return ((noisy - spread * answer) / signal).to(noisy.dtype)
    return (signal * noisy - spread * answer).to(noisy.dtype)


def snr(base: Base, t: Tensor) -> Tensor:
    """Signal-to-noise ratio ᾱ / (1 - ᾱ) at each timestep, float32, in the shape of t."""
    alphas = base.alphas_cumprod[t]
    return alphas / (1 - alphas)


def predict(base: Base, noisy: Tensor, t: Tensor, conditioning: Conditioning, time_ids: Tensor | None = None) -> Tensor:
    """The UNet's output [B, 4, h, w] for ``noisy`` at t ([B], or one for all).

    SDXL's UNet is also conditioned on original size, crop and target size in px: ``time_ids`` [B, 6], by default those
    of an uncropped picture of this size (Podell et al., 2023, arXiv:2307.01952, 2.2). An unCLIP base gets the supplied
    picture if ``conditioning`` has none.
    """
    if base.unet is None:
        raise BaseError(base.path, "was loaded without its unet", 'add "unet" to the `parts` of load_base')
    added = None
    if FAMILIES[base.family].size_ids:
        added = {
            "text_embeds": conditioning.pooled,
            "time_ids": size_ids(base, noisy) if time_ids is None else time_ids,
        }
    conditioning = with_image(base.unclip, conditioning)
    answer: Tensor = base.unet(
        noisy,
        t,
        encoder_hidden_states=conditioning.hidden,
        class_labels=conditioning.picture,  # ignored by a UNet for which the picture replaces the text
        added_cond_kwargs=added,
        return_dict=False,
    )[0]
    return answer


def size_ids(base: Base, latents: Tensor) -> Tensor:
    """SDXL's (height, width, 0, 0, height, width) [B, 6] in px for the pictures of ``latents``."""
    height, width = (base.factor * side for side in latents.shape[-2:])
    # created on the device: a tensor made from Python numbers would be copied to it, and the host would wait
    columns = [latents.new_full((len(latents), 1), value) for value in (height, width, 0, 0, height, width)]
    return torch.cat(columns, dim=1)


def _coefficients(base: Base, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """√ᾱ and √(1 - ᾱ) in the shape of ``like``, in float32 or wider: in half precision 1 - ᾱ may become 0."""
    alphas = base.alphas_cumprod.to(torch.promote_types(like.dtype, torch.float32))[t].reshape(-1, 1, 1, 1)
    return alphas.sqrt(), (1 - alphas).sqrt()
