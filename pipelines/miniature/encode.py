"""Encode once what the UNet learns from: every picture on every colour, and every caption that can be drawn.

The UNet then trains without the autoencoder and the text encoder, which would take most of the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer
from typer import Argument

from etude.files import replace_folder, write_json, write_tensors
from etude.params import Schema, pick
from etude.training.randomness import make_deterministic
from pipelines.miniature.clip import read_clip
from pipelines.miniature.draws import may_flip, randomiser
from pipelines.miniature.vae import read_vae
from pipelines.miniature.world import (
    FOLDER,
    OUT,
    Pictures,
    Words,
    World,
    background,
    colour_table,
    compose,
    read_pictures,
    read_world,
)
from tasks import run

BATCH = 64  # pictures or captions at a time: only speed depends on it


class Encode(Schema):
    """The ``encode`` block of params.yaml."""

    threads: int


class Dials(Schema):
    """The part of params.yaml that these stages read."""

    encode: Encode
    words: Words


def encode(part: Annotated[Literal["latents", "texts"], Argument()]) -> None:
    """Encode all pictures (``latents``) or all captions (``texts``)."""
    make_deterministic(pick(FOLDER / "params.yaml", Dials).encode.threads)
    if part == "latents":
        encode_latents()
    else:
        encode_texts()


def encode_latents() -> None:
    """Write ``out/latents/``: mean, float16 [pictures, 2, colours, 4, h, w], unscaled, and whose each picture is. The
    second of each pair is flipped.
    """
    world = read_world()
    pictures = read_pictures().trained(world)
    with replace_folder(OUT / "latents") as folder:
        write_tensors(folder / "latents.safetensors", {"mean": latents(read_vae(), pictures, colour_table(world))})
        write_json(folder / "index.json", {"style": pictures.style, "concept": pictures.concept})


def encode_texts() -> None:
    """Write ``out/texts/``: hidden, float16 [captions, 77, d], and the key of each caption."""
    captions = all_captions(read_world(), pick(FOLDER / "params.yaml", Dials).words)
    tokenizer = CLIPTokenizer.from_pretrained(OUT / "tokenizer")
    with replace_folder(OUT / "texts") as folder:
        write_tensors(folder / "texts.safetensors", {"hidden": texts(read_clip(), tokenizer, list(captions.values()))})
        write_json(folder / "index.json", list(captions))


def all_captions(world: World, words: Words) -> dict[str, str]:
    """The caption of each key ``style|concept|colour`` (parts left out are empty), and the empty caption first.

    Some have an opening, the same one every time: so the UNet sees openings without many more captions to encode.
    """
    captions = {"||": ""}
    for style in ("", *world.styles):
        for concept in world.concepts:
            for colour in ("", *world.colours):
                key = f"{style}|{concept}|{colour}"
                draw = randomiser("opening", key)
                opening = draw.choice(words.openings) if draw.random() < words.opening else ""
                end = background(colour) if colour else ""
                captions[key] = " ".join(filter(None, (opening, style, concept, end)))
    return captions


@torch.no_grad()
def latents(vae: AutoencoderKL, pictures: Pictures, table: Tensor) -> Tensor:
    """Means of all pictures, plain and flipped, on all colours: float16 [N, 2, C, 4, h, w], not scaled."""
    rows = []
    for i in range(len(pictures)):
        rgba = pictures.rgba[i]
        pair = torch.stack([rgba, rgba.flip(-1) if may_flip(pictures.concept[i]) else rgba])
        images = compose(pair.repeat_interleave(len(table), 0), table.repeat(2, 1))
        with torch.autocast("cpu", torch.bfloat16):
            mean = vae.encode(images).latent_dist.mean
        rows.append(mean.half().reshape(2, len(table), *mean.shape[1:]))
    return torch.stack(rows)


@torch.no_grad()
def texts(clip: CLIPModel, tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """The text tower's last states, float16 [N, 77, d]."""
    parts = []
    for batch in batched(captions):
        tokens = tokenizer(batch, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        parts.append(clip.text_model(input_ids=tokens).last_hidden_state.half())
    return torch.cat(parts)


def batched(items: list[str]) -> Iterator[list[str]]:
    """``items`` in lists of at most BATCH."""
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


if __name__ == "__main__":
    run(encode)
