"""The tests of the finished miniature: each trial is a function of the published folder and of real pictures."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPImageProcessorPil, CLIPTokenizer

from etude.base.base import Base
from etude.base.settings import Sampling
from etude.diffusion.sample import generate
from etude.evaluation.classifier import Labels
from miniature.clip import read_clip
from miniature.draws import may_flip, randomiser
from miniature.stage import in_parts, pixels_to_picture
from miniature.vae import on_colours, psnr, read_vae, reconstruct
from miniature.world import Pictures, World, background, colour_table, compose

Track = Callable[[Sequence[Sequence[int]], str], Iterable[Sequence[int]]]
PARTS = ("concept", "style", "background")


@dataclass(frozen=True)
class Asked:
    """A caption, what it names, and the real picture of this (a row of the pictures)."""

    caption: str
    wanted: Labels
    real: int
    colour: str


def ask(pictures: Pictures, concepts: Iterable[str], world: World, draw: random.Random) -> list[Asked]:
    """One caption for each of ``concepts``: any known style that has it, on any colour, both named."""
    rows: dict[str, list[int]] = {}
    for row, (style, concept) in enumerate(zip(pictures.style, pictures.concept, strict=True)):
        if style in world.styles:
            rows.setdefault(concept, []).append(row)
    return [_ask(pictures, draw.choice(rows[concept]), draw.choice(list(world.colours))) for concept in concepts]


def _ask(pictures: Pictures, row: int, colour: str) -> Asked:
    style, concept = pictures.style[row], pictures.concept[row]
    wanted = {"concept": concept, "style": style, "background": background(colour)}
    return Asked(f"{style} {concept} {background(colour)}", wanted, row, colour)


def real_pictures(asked: Sequence[Asked], pictures: Pictures, world: World) -> list[Image.Image]:
    """The real pictures of what the captions name."""
    colours = torch.tensor([world.colours[one.colour] for one in asked], dtype=torch.float32)
    return pixels_to_picture(compose(pictures.rgba[[one.real for one in asked]], colours))


@dataclass(frozen=True)
class Drawn:
    """Pictures in the order of the captions, and the seconds that each batch took."""

    pictures: list[Image.Image]
    seconds: list[float]


def draw_all(
    base: Base, asked: Sequence[Asked], sampling: Sampling, first_seed: int, batch: int, track: Track, title: str
) -> Drawn:
    """A picture for each caption, each with a seed of its own."""
    pictures: list[Image.Image] = []
    seconds = []
    for part in track([range(len(asked))[start : start + batch] for start in range(0, len(asked), batch)], title):
        start = time.perf_counter()
        seeds = [first_seed + number for number in part]
        drawn = generate(base, [asked[number].caption for number in part], seeds=seeds, **sampling.model_dump())
        pictures += [Image.fromarray(array) for array in drawn.cpu().numpy()]
        seconds.append(time.perf_counter() - start)
    return Drawn(pictures, seconds)


def hits(asked: Sequence[Asked], seen: Sequence[Labels]) -> dict[str, float]:
    """The share of pictures in which the classifier saw what the caption names, for each part."""
    pairs = list(zip(seen, asked, strict=True))
    shares = {}
    for part in PARTS:
        shares[part] = sum(named[part] == one.wanted[part] for named, one in pairs) / len(pairs)
    return shares


def reconstruction(folder: Path, pictures: Pictures, world: World) -> float:
    """Mean PSNR in dB of held-out concepts in known styles through the autoencoder and back."""
    true = on_colours(pictures.held_out(world), colour_table(world))
    return psnr(reconstruct(read_vae(folder / "vae"), true), true)


@torch.no_grad()
def retrieval(folder: Path, pictures: Pictures, world: World, seed: int, track: Track) -> float:
    """How often, of all pictures of a style, the one nearest to a caption shows the caption's concept.

    The caption is ``<style> <concept>``; the pictures are mirrored where that is safe and moved a little; their
    backgrounds are colours between two of the twelve, which no caption names.
    """
    clip = read_clip(folder / "clip")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "clip", local_files_only=True)
    preprocess = CLIPImageProcessorPil.from_pretrained(folder / "clip", local_files_only=True)
    known = pictures.trained(world)
    images = pixels_to_picture(new_renderings(known, world, randomiser(seed, "retrieval")))
    texts = [f"{style} {concept}" for style, concept in zip(known.style, known.concept, strict=True)]
    seen, read = [], []
    for part in track([range(len(known))[start : start + 64] for start in range(0, len(known), 64)], "CLIP: retrieval"):
        pixels = preprocess(images=[images[i] for i in part], return_tensors="pt")["pixel_values"]
        seen.append(clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output))
        tokens = tokenizer([texts[i] for i in part], padding=True, return_tensors="pt").input_ids
        read.append(clip.text_projection(clip.text_model(input_ids=tokens).pooler_output))
    cosines = normalize(torch.cat(read), dim=1) @ normalize(torch.cat(seen), dim=1).T
    styles = torch.tensor([list(world.styles).index(style) for style in known.style])
    nearest = cosines.masked_fill(styles[:, None] != styles[None], -2).argmax(dim=1)
    right = sum(known.concept[int(found)] == concept for found, concept in zip(nearest, known.concept, strict=True))
    return right / len(known)


def new_renderings(pictures: Pictures, world: World, draw: random.Random) -> Tensor:
    """Every picture once, mirrored where that is safe, moved, on a colour between two: float [N, 3, H, W], −1 to 1."""
    table = colour_table(world)
    rows = []
    for number, concept in enumerate(pictures.concept):
        picture = pictures.rgba[number].flip(-1) if may_flip(concept) else pictures.rgba[number]
        rows.append(picture.roll((draw.randint(-4, 4), draw.randint(-4, 4)), (-2, -1)))
    pairs = [draw.sample(range(len(table)), 2) for _ in rows]
    colours = torch.stack([(table[a] + table[b]) / 2 for a, b in pairs])
    parts = zip(in_parts(torch.stack(rows), 256), in_parts(colours, 256), strict=True)
    return torch.cat([compose(part, shades) for part, shades in parts])


def confusions(asked: Sequence[Asked], seen: Sequence[Labels]) -> Mapping[str, list[list[str]]]:
    """Caption → what the classifier named instead, where a part was wrong."""
    wrong: dict[str, list[list[str]]] = {}
    for one, named in zip(asked, seen, strict=True):
        missed = [named[part] for part in PARTS if named[part] != one.wanted[part]]
        if missed:
            wrong.setdefault(one.caption, []).append(missed)
    return wrong
