"""The memory of drawing pictures with the base, as class images, evaluation and grids do, counted without values."""

from __future__ import annotations

from dataclasses import replace

import torch

from etude.base.latents import decode_latents
from etude.base.text import encode_prompts
from etude.core.params import Part
from etude.diffusion.sample import guided
from etude.memory.base import empty_base
from etude.memory.counter import counting
from etude.memory.footprint import Footprint, Setup
from etude.training.opening import Opening

PARTS: tuple[Part, ...] = ("unet", "vae", "text")


@torch.no_grad()
def count_drawing(setup: Setup, pictures: int) -> Footprint:
    """Count a step of ``pictures`` drawn at once, with guidance, in the size of the base, and their decoding."""
    how = Opening(PARTS, (), setup.precision, lambda _: False, recompute=False)
    with counting(setup.device) as counter:
        made = replace(empty_base(setup.base, setup.family, how), reading=setup.reading)
        counter.restart()
        footprint = Footprint(weights=counter.now)
        positive, negative = (encode_prompts(made, [text] * pictures) for text in ("a", ""))
        side = made.resolution // made.factor
        latents = torch.empty(pictures, 4, side, side)
        guided(made, latents, torch.tensor(500), positive, negative, 7.5)
        footprint.activations = counter.peak - footprint.weights
        counter.restart()
        decode_latents(made, latents)
        footprint.previews = counter.peak - footprint.weights
    return footprint
