"""The world of the miniature: its vocabulary, its captions, and pictures put on plain backgrounds.

A caption is ``<style> <concept> [on a <colour> background]``; the style is sometimes left out, a white background is
mostly not named, and a few captions begin with words such as "a picture of a", so that later positions learn too.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from etude.core.errors import InputError
from etude.core.files import read_json
from etude.core.params import Schema, load
from etude.core.tensors import read_tensors

FOLDER = Path("miniature")
OUT = FOLDER / "out"


class World(Schema):
    """world.yaml. Colours are sRGB, 0 to 255; concepts map the words of a caption to icon names."""

    styles: dict[str, str]
    held_out_styles: dict[str, str]
    colours: dict[str, list[int]]
    held_out_concepts: dict[str, list[str]]
    concepts: dict[str, list[str]]
    firefox: dict[str, str]

    def icons(self, style: str) -> dict[str, list[str]]:
        """The icon names to look for, by concept: all sets but one use the same names."""
        if style in self.held_out_styles:
            return {concept: [icon] for concept, icon in self.firefox.items()}
        return {**self.concepts, **self.held_out_concepts}

    def package(self, style: str) -> str:
        """The npm package (below ``@iconify-json``) that draws in ``style``."""
        return {**self.styles, **self.held_out_styles}[style]


class Words(Schema):
    """How captions are drawn: probabilities, 0 to 1."""

    style_named: float
    white_background: float
    white_named: float
    colour_named: float
    opening: float
    openings: list[str]


def read_world() -> World:
    """The world of world.yaml; raises ParamsError."""
    return load(FOLDER / "world.yaml", World)


def background(colour: str) -> str:
    """``on a red background``, ``on an orange background``."""
    return f"on {'an' if colour[0] in 'aeiou' else 'a'} {colour} background"


def caption(style: str, concept: str, colour: str, words: Words, draw: random.Random) -> str:
    """A caption for ``concept`` in ``style`` on ``colour``."""
    named = words.white_named if colour == "white" else words.colour_named
    parts = [
        draw.choice(words.openings) if draw.random() < words.opening else "",
        style if draw.random() < words.style_named else "",
        concept,
        background(colour) if draw.random() < named else "",
    ]
    return " ".join(filter(None, parts))


def choose_colour(colours: Sequence[str], words: Words, draw: random.Random) -> str:
    """White with its own probability, else one of the others with equal probability."""
    if draw.random() < words.white_background:
        return "white"
    return draw.choice([colour for colour in colours if colour != "white"])


@dataclass(frozen=True)
class Pictures:
    """All renderings with their alpha. ``rgba`` is uint8 [N, 4, H, W]; ``style`` and ``concept`` name each."""

    rgba: Tensor
    style: list[str]
    concept: list[str]

    def __len__(self) -> int:
        return len(self.style)

    def pick(self, styles: Mapping[str, object], concepts: Mapping[str, object]) -> Pictures:
        """Only the pictures of ``styles`` and ``concepts``."""
        kept = [i for i in range(len(self)) if self.style[i] in styles and self.concept[i] in concepts]
        if not kept:
            raise InputError(
                OUT / "render",
                "has no picture of the chosen styles and concepts",
                "correct world.yaml, or run the stage render",
            )
        return Pictures(self.rgba[kept], [self.style[i] for i in kept], [self.concept[i] for i in kept])

    def trained(self, world: World) -> Pictures:
        """What training may see: no held-out style and no held-out concept."""
        return self.pick(world.styles, world.concepts)

    def held_out(self, world: World) -> Pictures:
        """Known styles, held-out concepts: what no training has seen."""
        return self.pick(world.styles, world.held_out_concepts)


def read_pictures(folder: Path = OUT / "render") -> Pictures:
    """The pictures of the render stage, sorted by style, then concept."""
    index = read_json(folder / "index.json")
    tensors, _ = read_tensors(folder / "pictures.safetensors")
    return Pictures(tensors["rgba"], [row["style"] for row in index], [row["concept"] for row in index])


def compose(rgba: Tensor, colour: Tensor) -> Tensor:
    """Pictures over plain colours: uint8 [B, 4, H, W] and [B, 3] from 0 to 255 → float [B, 3, H, W] from -1 to 1."""
    alpha = rgba[:, 3:].float() / 255
    picture = rgba[:, :3].float() * alpha + colour.float()[:, :, None, None] * (1 - alpha)
    return picture / 127.5 - 1


def colour_table(world: World) -> Tensor:
    """The colours in the order of world.yaml: float [12, 3]."""
    return torch.tensor(list(world.colours.values()), dtype=torch.float32)
