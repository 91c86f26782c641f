"""Encode every picture on every colour once, so that the UNet trains without the autoencoder."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from etude.core.files import replace_folder, write_json
from etude.core.params import Schema, pick
from etude.core.randomness import make_deterministic
from etude.core.tensors import write_tensors
from miniature.vae import read_vae
from miniature.world import FOLDER, OUT, Pictures, World, colour_table, compose, read_pictures, read_world
from tasks.shell import run


class Encode(Schema):
    """The ``encode`` block of params.yaml."""

    threads: int


class StageParams(Schema):
    """The part of params.yaml that this stage reads."""

    encode: Encode


def encode() -> None:
    """Write ``out/latents/`` of the pictures that the stage *render* drew."""
    make_deterministic(pick(FOLDER / "params.yaml", StageParams).encode.threads)
    write_latents(read_vae(), read_pictures(), read_world())


def write_latents(vae: AutoencoderKL, drawn: Pictures, world: World) -> None:
    """Write ``out/latents/``: mean, float16 [pictures, colours, 4, h, w], unscaled; style and concept of each picture.

    Pictures are not mirrored: a UNet of this size learns one side sooner than two.
    """
    pictures = drawn.trained(world)
    with replace_folder(OUT / "latents") as folder:
        write_tensors(folder / "latents.safetensors", {"mean": latents(vae, pictures, colour_table(world))})
        write_json(folder / "index.json", {"style": pictures.style, "concept": pictures.concept})


@torch.no_grad()
def latents(vae: AutoencoderKL, pictures: Pictures, table: Tensor) -> Tensor:
    """Means of all pictures on all colours: float16 [N, C, 4, h, w], not scaled."""
    rows = []
    for rgba in pictures.rgba:
        images = compose(rgba.expand(len(table), *rgba.shape), table).to(vae.device)
        with torch.autocast(vae.device.type, torch.bfloat16):
            rows.append(vae.encode(images).latent_dist.mean.half().cpu())
    return torch.stack(rows)


if __name__ == "__main__":
    run(encode)
