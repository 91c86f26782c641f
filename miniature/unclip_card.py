"""The card of the published unCLIP model: what it is, what it scored, and what it draws from pictures alone."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from etude.core.files import read_json
from etude.core.params import pick
from miniature.card import Card, StageParams
from miniature.embeddings import different
from miniature.stage import pixels_to_picture, tile
from miniature.world import FOLDER, World, colour_table, read_pictures

TEMPLATE = Path(__file__).with_suffix(".md")
ACROSS = 12  # pictures in a row


def write_unclip_card(folder: Path, unclip: Path, world: World) -> None:
    """Write ``samples.png`` and ``README.md`` of the model in ``folder``; ``unclip`` is the stage's out."""
    card, table, pictures = pick(FOLDER / "params.yaml", StageParams).card, colour_table(world), read_pictures()
    rows = []
    for shown in (pictures.trained(world), pictures.held_out(world)):
        given = different(shown, ACROSS, table)
        rows += pixels_to_picture(given) + draw(folder, given, card)
    tile(rows, ACROSS).save(folder / "samples.png", optimize=True)
    similarity = read_json(unclip / "metrics.json")["similarity"]
    text = TEMPLATE.read_text(encoding="utf-8").format(**similarity, steps=card.steps)
    (folder / "README.md").write_text(text, encoding="utf-8")


def draw(folder: Path, given: Tensor, card: Card) -> list[Image.Image]:
    """Pictures that the pipeline in ``folder`` draws from pictures [n, 3, H, W] from -1 to 1, without text."""
    from diffusers import DPMSolverMultistepScheduler, StableUnCLIPImg2ImgPipeline

    pipe = StableUnCLIPImg2ImgPipeline.from_pretrained(folder, local_files_only=True)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    made: list[Image.Image] = []
    for number, picture in enumerate(pixels_to_picture(given)):
        seed = torch.Generator().manual_seed(card.seed + number)
        settings = {"num_inference_steps": card.steps, "guidance_scale": 3.0, "generator": seed}
        made += pipe(picture, prompt="", **settings).images
    return made
