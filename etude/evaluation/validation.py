"""The loss at fixed noise and fixed timesteps: one table of (picture, noise, t) for every checkpoint of every method.

The loss falls when the method predicts the training pictures better. Repeated measurements are equal: the noise depends
only on the seed, the picture and the timestep (like kohya's ``validation_seed``, but on a fixed grid of t).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from etude.base.conditioning import Conditioning
from etude.base.text import encode_prompts
from etude.core import randomness
from etude.core.errors import InputError
from etude.core.files import read_json, sha256_file, write_json
from etude.core.placeholder import fill
from etude.core.randomness import generator
from etude.core.shards import Shards
from etude.core.store import Store, key
from etude.diffusion.noise import add_noise, predict, target
from etude.rendering.candidates import Candidate
from etude.rendering.real import evenly
from etude.rendering.renderer import Renderer

if TYPE_CHECKING:
    from etude.base.base import Base
    from etude.evaluation.settings import Validation

CODE = (__file__, randomness.__file__)  # the code that makes the noise and the loss: a part of the cache key


@dataclass(frozen=True)
class Table:
    """The inputs of the validation loss, equal for all candidates: latents by picture name, and how noise is added."""

    latents: dict[str, Tensor]  # picture name → unscaled VAE mean [4, h, w]
    prompt: str  # with the name filled in
    timesteps: tuple[int, ...]
    seed: int
    clip_skip: int  # the same as for drawing
    digest: str  # of all the values above


def loss_table(latents: Path, names: Sequence[str], settings: Validation, name: str, clip_skip: int) -> Table:
    """The table for the pictures ``names`` of ``data/<set>/latents``; raises InputError if one is missing."""
    shards = Shards(("", latents))
    mean, positions = (
        shards.column("mean"),
        {name: shards.find(name) for name in evenly(sorted(names), settings.images)},
    )
    means, data = {}, {}
    for picture, position in positions.items():
        if position is None:
            raise InputError(latents, f"has no latents of {picture}", "run `dvc repro` so that *encode* runs")
        means[picture], data[picture] = mean[position], shards.digest(position)
    prompt, steps = fill(settings.prompt, name), tuple(settings.timesteps)
    code = [sha256_file(file) for file in CODE]
    digest = key(data, prompt, list(steps), settings.seed, clip_skip, code)
    return Table(means, prompt, steps, settings.seed, clip_skip, digest)


def curve(renderer: Renderer, candidate: Candidate, settings: Mapping[str, float], table: Table) -> list[float]:
    """Mean squared error at each timestep, over the pictures of the table; cached in ``.cache/validation``."""
    place = Store("validation").path(renderer.key(candidate, settings, table.digest), ".json")
    if place.exists():
        return list(read_json(place))
    with renderer.applied(candidate, settings) as base, torch.inference_mode():
        conditioning = encode_prompts(base, [table.prompt] * len(table.timesteps), table.clip_skip)
        losses = torch.stack([_losses(base, name, mean, table, conditioning) for name, mean in table.latents.items()])
    values = [float(value) for value in losses.double().mean(dim=0)]
    write_json(place, values)
    return values


def _losses(base: Base, name: str, mean: Tensor, table: Table, conditioning: Conditioning) -> Tensor:
    """One picture's loss at each timestep [T]; all timesteps are computed in one batch."""
    steps = torch.tensor(table.timesteps, device=base.device)
    noise = torch.stack(
        [torch.randn(mean.shape, generator=generator(table.seed, "validation", name, t)) for t in table.timesteps]
    ).to(base.device, base.dtype)
    latents = (mean * base.scaling_factor).to(base.device, base.dtype).expand_as(noise)
    prediction = predict(base, add_noise(base, latents, noise, steps), steps, conditioning)
    wanted = target(base, latents, noise, steps)
    return (prediction.float() - wanted.float()).square().mean(dim=(1, 2, 3)).cpu()
