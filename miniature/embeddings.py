"""CLIP image embeddings by the miniature's own vision tower, and the form in which an unCLIP UNet takes them.

As in diffusers' ``StableUnCLIPImg2ImgPipeline``, embeddings are normalised, noised at a level, scaled back, and joined
with the level's sinusoidal embedding. All zeros mean no picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import CLIPModel

from miniature.stage import in_parts
from miniature.world import Pictures, compose

NOISING = {
    "beta_end": 0.02,
    "beta_schedule": "squaredcos_cap_v2",
    "beta_start": 0.0001,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}
NOISER = DDPMScheduler(**NOISING)


@dataclass(frozen=True)
class Normaliser:
    """Mean and standard deviation [1, d] of the embeddings of all training pictures."""

    mean: Tensor
    std: Tensor

    def labels(self, embeddings: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """The UNet's input [B, 2d] for ``embeddings`` [B, d], noised at ``level`` int64 [B]."""
        mean, std = self.mean.to(embeddings), self.std.to(embeddings)
        noised = NOISER.add_noise((embeddings - mean) / std, noise, level) * std + mean
        told = get_timestep_embedding(level, embeddings.shape[1], flip_sin_to_cos=True, downscale_freq_shift=0)
        return torch.cat([noised, told.to(noised)], dim=1)


def normaliser(embeddings: Tensor) -> Normaliser:
    """The normaliser of embeddings [..., d]."""
    flat = embeddings.flatten(0, -2)
    return Normaliser(flat.mean(0, keepdim=True), flat.std(0, keepdim=True))


@torch.no_grad()
def see(clip: CLIPModel, images: Tensor) -> Tensor:
    """Projected, not normalised image embeddings [B, d] of float images [B, 3, H, W] from -1 to 1."""
    size = clip.config.vision_config.image_size
    parts = []
    for part in in_parts(images, 64):
        small = interpolate(part, size=(size, size), mode="bicubic", antialias=True).clamp(-1, 1)
        parts.append(clip.visual_projection(clip.vision_model(pixel_values=small).pooler_output))
    return torch.cat(parts)


def embed(clip: CLIPModel, pictures: Pictures, table: Tensor) -> Tensor:
    """Embeddings of all pictures on all colours of ``table`` [C, 3]: [N, C, d]."""
    return torch.stack([see(clip, compose(rgba.expand(len(table), *rgba.shape), table)) for rgba in pictures.rgba])


def different(pictures: Pictures, count: int, table: Tensor) -> Tensor:
    """At most ``count`` pictures, each of another concept, on the colours in turn: [n, 3, H, W] from -1 to 1."""
    first: dict[str, int] = {}
    for i, concept in enumerate(pictures.concept):
        first.setdefault(concept, i)
    concepts = list(first)
    spread = [first[concepts[i * len(concepts) // count]] for i in range(min(count, len(concepts)))]
    colours = table[[i % len(table) for i in range(len(spread))]]
    return compose(pictures.rgba[spread], colours)
