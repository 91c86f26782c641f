"""Which pictures are in a batch: pure functions of seed and step, so that a killed run resumes exactly."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from etude.core.randomness import mix
from miniature.world import Pictures, compose

MIRRORED_WORDS = ("book", "clock", "taxi", "ambulance", "bus", "television", "santa", "sleeping face")
"""Concepts with letters, digits or a side that matters: never flipped."""


@dataclass(frozen=True)
class Examples:
    """Pictures on backgrounds: ``images`` float [B, 3, H, W] from -1 to 1."""

    names: list[str]
    images: Tensor


def may_flip(concept: str) -> bool:
    """Whether a mirrored picture of ``concept`` still shows it rightly."""
    return concept not in MIRRORED_WORDS


def randomiser(*parts: int | str) -> random.Random:
    """A generator of plain Python numbers that depends on every part."""
    return random.Random(mix(*parts))


def place(pictures: Pictures, indices: Sequence[int], colours: Tensor, draw: random.Random, shift: int = 0) -> Examples:
    """Pictures ``indices`` over ``colours`` [B, 3], each flipped at random where that is safe and moved by at most
    ``shift`` pixels. Because of the transparent margin, moving is a plain roll.
    """
    rgba = torch.stack([_moved(pictures, i, draw, shift) for i in indices])
    names = [f"{pictures.style[i]} {pictures.concept[i]}" for i in indices]
    return Examples(names, compose(rgba, colours))


def _moved(pictures: Pictures, index: int, draw: random.Random, shift: int) -> Tensor:
    picture = pictures.rgba[index]
    if may_flip(pictures.concept[index]) and draw.random() < 0.5:
        picture = picture.flip(-1)
    if shift:
        picture = picture.roll((draw.randint(-shift, shift), draw.randint(-shift, shift)), (-2, -1))
    return picture


def random_colours(table: Tensor, count: int, free: float, draw: random.Random) -> Tensor:
    """``count`` colours: any sRGB colour with probability ``free``, else one of ``table`` [12, 3]."""
    rows = []
    for _ in range(count):
        if draw.random() < free:
            rows.append(torch.tensor([draw.uniform(0, 255) for _ in range(3)]))
        else:
            rows.append(table[draw.randrange(len(table))])
    return torch.stack(rows)
