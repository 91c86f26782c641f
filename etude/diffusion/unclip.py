"""What an unCLIP base has besides: its UNet is told of a picture by the picture's CLIP embedding (Stable unCLIP).

As in diffusers' ``StableUnCLIPImg2ImgPipeline``: an embedding z [d] is normalised, noised at a level k of 0 to 999,
brought back to its own scale and joined with the sinusoidal embedding of k. All zeros tell of no picture: the
unconditional half of guidance, and what a base without an embedding in force is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers import DDPMScheduler
from diffusers.models.embeddings import get_timestep_embedding
from torch import Generator, Tensor

from etude.diffusion.family import read_config, weight_files
from etude.errors import BaseError

if TYPE_CHECKING:
    from etude.diffusion.base import Base
    from etude.diffusion.text import Conditioning

LEVELS = 1000  # of noise on embeddings
_SCHEDULE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")


@dataclass(frozen=True)
class Supplied:
    """An embedding [1, d] in force, and the level at which it is noised."""

    embedding: Tensor
    level: int


@dataclass(frozen=True)
class Unclip:
    """How a base is told of a picture. ``mean`` and ``std`` [1, d] of its embeddings, ``alphas_cumprod`` [1000]."""

    mean: Tensor
    std: Tensor
    alphas_cumprod: Tensor
    supplied: list[Supplied] = field(default_factory=list)  # by `hooks.supplied_picture`; the last one is in force

    @property
    def width(self) -> int:
        """Numbers in an embedding."""
        return self.mean.shape[1]

    def scale(self, embeddings: Tensor) -> Tensor:
        """Embeddings in units of the base's spread of them, around its mean."""
        return (embeddings - self.mean.to(embeddings)) / self.std.to(embeddings)

    def unscale(self, embeddings: Tensor) -> Tensor:
        """Undoes `scale`."""
        return embeddings * self.std.to(embeddings) + self.mean.to(embeddings)

    def labels(self, embeddings: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """What the UNet is told of ``embeddings`` [B, d] with unit ``noise`` [B, d] at ``level`` int64 [B]: [B, 2d]."""
        kept = self.alphas_cumprod.to(embeddings)[level][:, None]
        noised = self.unscale(kept.sqrt() * self.scale(embeddings) + (1 - kept).sqrt() * noise)
        told = get_timestep_embedding(level, self.width, flip_sin_to_cos=True, downscale_freq_shift=0)
        return torch.cat([noised, told.to(noised)], dim=1)


def load_unclip(path: Path, config: dict[str, object], device: torch.device) -> Unclip:
    """The normaliser and the noise schedule of an unCLIP base, whose UNet's configuration is ``config``."""
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer

    folder = path / "image_normalizer"
    model, info = StableUnCLIPImageNormalizer.from_pretrained(
        str(folder), variant=weight_files(folder)[1], local_files_only=True, output_loading_info=True
    )
    width = model.mean.shape[1]
    if info["missing_keys"] or config.get("projection_class_embeddings_input_dim") != 2 * width:
        fault = f"its image_normalizer of {width} numbers does not fit its unet"
        raise BaseError(path, fault, "fetch the base again, whole")
    schedule = read_config(path / "image_noising_scheduler" / "scheduler_config.json")
    alphas = DDPMScheduler(**{name: schedule[name] for name in _SCHEDULE if name in schedule}).alphas_cumprod
    return Unclip(model.mean.detach().float().to(device), model.std.detach().float().to(device), alphas.to(device))


def told(base: Base, conditioning: Conditioning, seeds: Sequence[int] | None = None) -> Conditioning:
    """``conditioning`` with what an unCLIP base is told of the picture in force; as it is where it says so itself.

    The embedding's noise comes from each picture's own seed, as the latents' does; without seeds all have the same.
    """
    if base.unclip is None or conditioning.picture is not None:
        return conditioning
    if not base.unclip.supplied:
        return untold(base, conditioning)
    now, count = base.unclip.supplied[-1], len(conditioning)
    noise = torch.stack([_noise(seed, base.unclip.width) for seed in seeds or [0] * count]).to(now.embedding)
    level = torch.full((count,), now.level, device=now.embedding.device)
    labels = base.unclip.labels(now.embedding.expand(count, -1), noise, level)
    return replace(conditioning, picture=labels.to(conditioning.hidden))


def untold(base: Base, conditioning: Conditioning) -> Conditioning:
    """``conditioning`` that tells an unCLIP base of no picture, unless it says something itself."""
    if base.unclip is None or conditioning.picture is not None:
        return conditioning
    nothing = conditioning.hidden.new_zeros(len(conditioning), 2 * base.unclip.width)
    return replace(conditioning, picture=nothing)


def _noise(seed: int, width: int) -> Tensor:
    """Unit noise [d] on the CPU; not the first numbers of ``seed``, which are the latents'."""
    return torch.randn(width, generator=Generator("cpu").manual_seed(seed + 2**32))
