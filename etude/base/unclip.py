"""unCLIP bases: the UNet is also conditioned on a picture, by the picture's CLIP embedding z [d].

* Stable unCLIP, as in diffusers' ``StableUnCLIPImg2ImgPipeline``: z is normalised, noise of a level k (0 to 999) is
  added, z is scaled back and concatenated with the sinusoidal embedding of k; it is used in addition to the text
* image variations, as in ``StableDiffusionImageVariationPipeline``: z itself replaces the text, as one token; such a
  base has no text encoder

Zeros mean no picture: in the unconditional half of guidance, and if no embedding is supplied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from etude.base.bounds import LARGEST
from etude.base.conditioning import Conditioning
from etude.base.family import is_variation
from etude.base.libraries import get_timestep_embedding
from etude.base.schedule import read_alphas
from etude.core.errors import BaseError, FormatError
from etude.core.model_folders import read_config, weight_paths
from etude.core.pickles import read_either

LEVELS = 1000  # noise levels of embeddings


@dataclass(frozen=True)
class Supplied:
    """A supplied embedding [1, d], and the level of the noise to add."""

    embedding: Tensor
    level: int


@dataclass(frozen=True)
class Unclip:
    """How a base is conditioned on a picture: ``mean`` and ``std`` [1, d] of embeddings, ``alphas_cumprod`` [1000].

    ``instead``: image variations, where the picture replaces the text, without normaliser (mean 0, std 1) and noise.
    """

    mean: Tensor
    std: Tensor
    alphas_cumprod: Tensor
    instead: bool = False
    supplied: list[Supplied] = field(default_factory=list)  # by `hooks.supplied_picture`; the last one counts

    @property
    def width(self) -> int:
        """Number of values in an embedding."""
        return self.mean.shape[1]

    def scale(self, embeddings: Tensor) -> Tensor:
        """Embeddings, normalised with mean and std."""
        return (embeddings - self.mean.to(embeddings)) / self.std.to(embeddings)

    def unscale(self, embeddings: Tensor) -> Tensor:
        """The inverse of `scale`."""
        return embeddings * self.std.to(embeddings) + self.mean.to(embeddings)

    def labels(self, embeddings: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """The UNet's input [B, 2d] for ``embeddings`` [B, d] with unit ``noise`` [B, d] at ``level`` int64 [B]."""
        signal = self.alphas_cumprod.to(embeddings)[level][:, None]
        noised = self.unscale(signal.sqrt() * self.scale(embeddings) + (1 - signal).sqrt() * noise)
        level_embedding = get_timestep_embedding(level, self.width, flip_sin_to_cos=True, downscale_freq_shift=0)
        return torch.cat([noised, level_embedding.to(noised)], dim=1)

    def refuse_noise(self, path: Path, level: int) -> None:
        """Raise BaseError for a noise level that the base in ``path`` does not support."""
        if level and self.instead:
            fault = "is a base of image variations, which does not support noise on embeddings"
            raise BaseError(path, fault, "set `noise_level: 0`")

    def add_picture(self, text: Conditioning, embeddings: Tensor, noise: Tensor, level: Tensor) -> Conditioning:
        """``text`` with the UNet's input for ``embeddings``; for the arguments see `labels`."""
        picture = embeddings if self.instead else self.labels(embeddings, noise, level)
        return self._joined(text, picture.to(text.hidden))

    def add_no_picture(self, text: Conditioning) -> Conditioning:
        """``text`` without any picture."""
        return self._joined(text, text.hidden.new_zeros(len(text), self.width * (1 if self.instead else 2)))

    def _joined(self, text: Conditioning, picture: Tensor) -> Conditioning:
        return replace(text, picture=picture, **({"hidden": picture[:, None]} if self.instead else {}))


def load_unclip(path: Path, config: dict[str, Any], device: torch.device) -> Unclip | None:
    """How the base in ``path`` is conditioned on a picture; None if it is not. ``config`` is that of its UNet."""
    if is_variation(path):
        width = config.get("cross_attention_dim")
        if type(width) is not int or not 0 < width <= LARGEST:
            fault = f"its unet has `cross_attention_dim: {repr(width)[:60]}`; it must be a number from 1 to {LARGEST}"
            raise BaseError(path, fault, "fetch the whole base again")
        blank = torch.zeros(1, width, device=device)
        return Unclip(blank, torch.ones_like(blank), torch.ones(LEVELS, device=device), instead=True)
    if config.get("class_embed_type") != "projection":
        return None
    return _load_normaliser(path, config, device)


def _load_normaliser(path: Path, config: dict[str, Any], device: torch.device) -> Unclip:
    """Mean and standard deviation of the embeddings, and the schedule of their noise; raises BaseError."""
    found: dict[str, Tensor] = {}
    for file in weight_paths(path / "image_normalizer"):
        try:
            found |= read_either(file)[0]
        except FormatError as error:
            raise BaseError(error.place, error.fault, "fetch the whole base again") from error
    wanted = config.get("projection_class_embeddings_input_dim")
    for name in ("mean", "std"):
        shape = list(found[name].shape) if name in found else []
        if len(shape) != 2 or shape[0] != 1 or wanted != 2 * shape[1]:
            fault = f"its image_normalizer does not fit its unet: `{name}` is {shape or 'missing'}"
            raise BaseError(path, fault, "fetch the whole base again")
    place = path / "image_noising_scheduler"
    alphas = read_alphas(place, read_config(place / "scheduler_config.json"))
    return Unclip(found["mean"].float().to(device), found["std"].float().to(device), alphas.to(device))


def with_image(unclip: Unclip | None, conditioning: Conditioning, seeds: Sequence[int] | None = None) -> Conditioning:
    """``conditioning`` with the input of an unCLIP base for the supplied picture, unless it has a picture already.

    ``unclip`` is the base's; if it is None, ``conditioning`` is unchanged. The noise of the embedding comes from each
    picture's own seed, like that of the latents; without seeds, all have the same noise.
    """
    if unclip is None or conditioning.picture is not None:
        return conditioning
    if not unclip.supplied:
        return unclip.add_no_picture(conditioning)
    now, count = unclip.supplied[-1], len(conditioning)
    noise = torch.stack([_noise(seed, unclip.width) for seed in seeds or [0] * count]).to(now.embedding)
    level = torch.full((count,), now.level, device=now.embedding.device)
    return unclip.add_picture(conditioning, now.embedding.expand(count, -1), noise, level)


def without_image(unclip: Unclip | None, conditioning: Conditioning) -> Conditioning:
    """``conditioning`` with an unCLIP base's input that means no picture, unless it has a picture already."""
    if unclip is None or conditioning.picture is not None:
        return conditioning
    return unclip.add_no_picture(conditioning)


def _noise(seed: int, width: int) -> Tensor:
    """Unit noise [d] on the CPU, from another random stream than the latents' noise of the same ``seed``."""
    return torch.randn(width, generator=Generator("cpu").manual_seed(seed + 2**32))
