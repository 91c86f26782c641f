"""DDIM's steps between a picture's latents and noise, in both directions (Song et al., 2021, arXiv:2010.02502).

z' = √ᾱ' x₀ + √(1 - ᾱ') ε, where x₀ = (z - √(1 - ᾱ) ε) / √ᾱ: towards less noise in drawing, towards more noise in
inversion. In both directions, the UNet gets the timestep of the noisier end of a step, so its inputs are almost equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from etude.base.base import Base
from etude.base.conditioning import Conditioning
from etude.diffusion.noise import predict
from etude.diffusion.sample import guided, make_scheduler


@dataclass(frozen=True)
class Path:
    """N steps from noise to picture: timestep, ᾱ there, and ᾱ at the end of the step."""

    times: tuple[int, ...]
    alphas: tuple[float, ...]
    ends: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.times)


def plan(base: Base, steps: int) -> Path:
    """The steps of ``sampler: ddim`` with this base."""
    scheduler = make_scheduler(base, "ddim", steps)
    ᾱ = base.alphas_cumprod.cpu().double()  # a Mac's GPU has no float64
    last = float(ᾱ[0]) if not scheduler.config.set_alpha_to_one else 1.0
    times = [int(t) for t in scheduler.timesteps]
    stride = scheduler.config.num_train_timesteps // steps
    ends = [float(ᾱ[t - stride]) if t >= stride else last for t in times]
    return Path(tuple(times), tuple(float(ᾱ[t]) for t in times), tuple(ends))


def parts(base: Base, answer: Tensor, z: Tensor, ᾱ: float) -> tuple[Tensor, Tensor]:
    """x₀ and ε from the UNet's output for ``z`` at ᾱ, for ε- and v-prediction."""
    signal, spread = sqrt(ᾱ), sqrt(1 - ᾱ)
    if base.prediction == "v_prediction":
        return signal * z - spread * answer, signal * answer + spread * z
    return (z - spread * answer) / signal, answer


def towards_picture(base: Base, answer: Tensor, z: Tensor, path: Path, i: int) -> Tensor:
    """Step i of drawing: from ᾱ to the ᾱ at its end."""
    x, ε = parts(base, answer, z, path.alphas[i])
    return sqrt(path.ends[i]) * x + sqrt(1 - path.ends[i]) * ε


def towards_noise(base: Base, answer: Tensor, z: Tensor, path: Path, i: int) -> Tensor:
    """Step i of drawing, backwards, from its end ``z``."""
    _, ε = parts(base, answer, z, path.alphas[i])
    start, end = path.alphas[i], path.ends[i]
    return sqrt(start) * (z - sqrt(1 - end) * ε) / sqrt(end) + sqrt(1 - start) * ε


@torch.no_grad()
def pivot(base: Base, z: Tensor, conditioning: Conditioning, path: Path) -> list[Tensor]:
    """z*₀ … z*_N: DDIM inversion of the latents ``z`` [B, 4, h, w] without guidance; the last is the noise."""
    latents = [z]
    for i in reversed(range(len(path))):
        answer = predict(base, latents[-1].to(base.dtype), _at(base, path, i), conditioning).to(z.dtype)
        latents.append(towards_noise(base, answer, latents[-1], path, i))
    return latents


@torch.no_grad()
def draw(
    base: Base,
    noise: Tensor,
    conditioning: Conditioning,
    negatives: Iterator[Conditioning],
    guidance: float,
    path: Path,
) -> Tensor:
    """Latents [B, 4, h, w] drawn from ``noise``; ``negatives`` are the unconditional halves, one for each step."""
    z = noise
    for i, nothing in zip(range(len(path)), negatives, strict=False):
        z = towards_picture(base, guided(base, z, _at(base, path, i), conditioning, nothing, guidance), z, path, i)
    return z


def _at(base: Base, path: Path, i: int) -> Tensor:
    return torch.tensor(path.times[i], device=base.device)
