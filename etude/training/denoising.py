"""The loss that all methods share: the error of the predicted noise, for ε- and v-prediction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from etude.base.base import Base
from etude.base.conditioning import Conditioning
from etude.base.latents import sample_latents
from etude.diffusion.noise import add_noise, predict, snr, target
from etude.training.batches import Batch
from etude.training.plan import Optimization


@dataclass(frozen=True)
class NoisySamples:
    """Latents [B, 4, h, w] sampled from their moments, random timesteps [B], and the latents with noise added."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    noisy: Tensor


def sample_noisy(base: Base, mean: Tensor, logvar: Tensor, plan: Optimization) -> NoisySamples:
    """Sample latents from unscaled moments, noise (``plan.noise_offset`` shifts whole channels of it) and timesteps."""
    latents = sample_latents(mean, logvar, torch.randn_like(mean), base.scaling_factor)
    noise = torch.randn_like(latents)
    if plan.noise_offset:
        noise = noise + plan.noise_offset * torch.randn_like(latents[:, :, :1, :1])
    timesteps = torch.randint(len(base.alphas_cumprod), (len(latents),), device=latents.device)
    return NoisySamples(latents, noise, timesteps, add_noise(base, latents, noise, timesteps))


def weight_losses(base: Base, errors: Tensor, timesteps: Tensor, plan: Optimization) -> Tensor:
    """The errors [B] of samples at their timesteps, weighted by Min-SNR with γ = ``plan.min_snr`` (0: unchanged).

    A sample's weight is min(snr, γ)/snr, or min(snr, γ)/(snr + 1) for v-prediction (Hang et al., 2023,
    arXiv:2303.09556).
    """
    if not plan.min_snr:
        return errors
    ratio = snr(base, timesteps).to(errors)
    return errors * ratio.clamp(max=plan.min_snr) / (ratio + (base.prediction == "v_prediction"))


def denoising_losses(
    base: Base,
    mean: Tensor,
    logvar: Tensor,
    conditioning: Conditioning,
    plan: Optimization,
    weights: Tensor | None = None,
    cells: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    """One loss for each sample [B]: the mean squared error of the prediction at a random timestep, weighted.

    ``mean`` and ``logvar`` are unscaled VAE moments [B, 4, h, w]; each call samples latents from them. The squared
    errors of a cell are multiplied by its ``weights`` [B, 1, h, w]. With ``cells`` [B, 1, h, w], the mean is over the
    cells that are 1. ``sizes`` [B, 6] are the pictures' sizes that `predict` passes to an SDXL base.
    """
    samples = sample_noisy(base, mean, logvar, plan)
    prediction = predict(base, samples.noisy, samples.timesteps, conditioning, sizes)
    squares = (_wide(prediction) - _wide(target(base, samples.latents, samples.noise, samples.timesteps))).square()
    if weights is not None:
        squares = squares * weights
    if cells is None:
        errors = squares.mean(dim=(1, 2, 3))
    else:
        errors = (squares * cells).sum(dim=(1, 2, 3)) / (cells.sum(dim=(1, 2, 3)) * squares.shape[1])
    return weight_losses(base, errors, samples.timesteps, plan)


def denoising_loss(
    base: Base, batch: Batch, conditioning: Conditioning, plan: Optimization, weights: Tensor | None = None
) -> Tensor:
    """The mean of `denoising_losses` of a batch."""
    return denoising_losses(base, batch.mean, batch.logvar, conditioning, plan, weights, sizes=batch.sizes).mean()


def _wide(tensor: Tensor) -> Tensor:
    """``tensor`` in float32 or wider: in half precision, squares of small errors become 0."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
