"""The loss at fixed noise and fixed timesteps: one table of (picture, noise, t) for every checkpoint of every method.

It falls where the method predicts the training pictures better, and is the same number whenever it is measured: the
noise hangs on the seed, the picture and the timestep alone (kohya's ``validation_seed``, on a fixed grid of t).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from etude.diffusion.noise import add_noise, predict, target
from etude.diffusion.text import Conditioning, encode_prompts
from etude.errors import InputError
from etude.files import read_json, sha256_file, write_json
from etude.rendering.prompts import fill
from etude.rendering.studio import Studio
from etude.rendering.subjects import Subject
from etude.store import Store, key
from etude.training import randomness
from etude.training.batches import load_images
from etude.training.randomness import generator

if TYPE_CHECKING:
    from etude.diffusion.base import Base
    from etude.evaluation.settings import Validation


CODE = (__file__, randomness.__file__)  # what makes the noise and the loss


@dataclass(frozen=True)
class Table:
    """What every subject is asked: latents [n, 4, h, w] by picture name, and how to noise them."""

    latents: dict[str, Tensor]  # unscaled VAE means
    prompt: str  # with the name filled in
    timesteps: tuple[int, ...]
    seed: int
    clip_skip: int  # as pictures are drawn
    digest: str  # of all of the above


def evenly(names: Sequence[str], count: int) -> list[str]:
    """At most ``count`` of ``names``, evenly spread from the first on."""
    count = min(count, len(names))
    return [names[number * len(names) // count] for number in range(count)]


def loss_table(latents: Path, names: Sequence[str], settings: Validation, name: str, clip_skip: int) -> Table:
    """The table for the pictures ``names`` of ``data/<set>/latents``; raises InputError when one is missing."""
    images = load_images(latents)
    means = dict(zip(images.names, images.mean, strict=True))
    chosen = evenly(sorted(names), settings.images)
    lost = [picture for picture in chosen if picture not in means]
    if lost:
        raise InputError(latents, f"has no latents of {lost[0]}", "run `dvc repro` so that *encode* makes them")
    prompt, steps = fill(settings.prompt, name), tuple(settings.timesteps)
    files = [[picture, sha256_file(latents / f"{picture}.safetensors")] for picture in chosen]
    digest = key(files, prompt, list(steps), settings.seed, clip_skip, [sha256_file(code) for code in CODE])
    latents_by_name = {picture: means[picture] for picture in chosen}
    return Table(latents_by_name, prompt, steps, settings.seed, clip_skip, digest)


def curve(studio: Studio, subject: Subject, settings: Mapping[str, float], table: Table) -> list[float]:
    """Mean squared error at each timestep, over the pictures of the table; kept in ``.cache/validation``."""
    place = Store("validation").path(studio.key(subject, settings, table.digest), ".json")
    if place.exists():
        return list(read_json(place))
    with studio.applied(subject, settings) as base, torch.inference_mode():
        conditioning = encode_prompts(base, [table.prompt] * len(table.timesteps), table.clip_skip)
        losses = torch.stack([_losses(base, name, mean, table, conditioning) for name, mean in table.latents.items()])
    values = [float(value) for value in losses.double().mean(dim=0)]
    write_json(place, values)
    return values


def _losses(base: Base, name: str, mean: Tensor, table: Table, conditioning: Conditioning) -> Tensor:
    """One picture's loss at each timestep [T]; the timesteps are one batch."""
    steps = torch.tensor(table.timesteps, device=base.device)
    noise = torch.stack(
        [torch.randn(mean.shape, generator=generator(table.seed, "validation", name, t)) for t in table.timesteps]
    ).to(base.device, base.dtype)
    latents = (mean * base.scaling_factor).to(base.device, base.dtype).expand_as(noise)
    prediction = predict(base, add_noise(base, latents, noise, steps), steps, conditioning)
    wanted = target(base, latents, noise, steps)
    return (prediction.float() - wanted.float()).square().mean(dim=(1, 2, 3)).cpu()
