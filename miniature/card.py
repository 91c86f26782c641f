"""The published model's card: what it is, what it scored, what it was made from, and a picture of what it draws."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from pydantic import ConfigDict

from etude.core.files import read_json
from etude.core.params import Schema, pick
from miniature import table
from miniature.kept import ICONS, source_row
from miniature.stage import tile
from miniature.world import FOLDER, World, background, read_world
from tasks.shell import run

MODEL = Path("models/miniature")
TEMPLATE = Path(__file__).with_suffix(".md")


class Measure(Schema):
    """The part of the ``measure`` block of params.yaml that the card reads."""

    model_config = ConfigDict(extra="ignore")

    bars: table.Bars


class Card(Schema):
    """The ``card`` block of params.yaml: the picture of samples, and what training cost."""

    across: int
    down: int
    steps: int
    guidance: float
    seed: int
    cost: str


class StageParams(Schema):
    """The part of params.yaml that the card reads."""

    card: Card
    measure: Measure


def card() -> None:
    """Write the card of ``models/miniature`` again, with the measured numbers."""
    write_card(MODEL, read_world())


def write_card(folder: Path, world: World) -> None:
    """Write ``samples.png`` and ``README.md`` of the model in ``folder``."""
    stage_params = pick(FOLDER / "params.yaml", StageParams)
    prompts = sample_prompts(world, stage_params.card.across * stage_params.card.down)
    tile(draw(folder, prompts, stage_params.card), stage_params.card.across).save(folder / "samples.png", optimize=True)
    measured = table.of_model(folder, stage_params.measure.bars)
    (folder / "README.md").write_text(text(world, stage_params.card, prompts, measured), encoding="utf-8")


def sample_prompts(world: World, count: int) -> list[str]:
    """``count`` captions spread over the concepts; styles and colours take turns."""
    concepts, styles, colours = list(world.concepts), list(world.styles), list(world.colours)
    chosen = [concepts[i * len(concepts) // count] for i in range(count)]
    return [
        f"{styles[i % len(styles)]} {concept} {background(colours[i % len(colours)])}"
        for i, concept in enumerate(chosen)
    ]


def draw(folder: Path, prompts: list[str], card: Card) -> list[Image.Image]:
    """The pictures that the pipeline in ``folder`` draws, through plain diffusers."""
    import torch
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    pictures: list[Image.Image] = []
    for start in range(0, len(prompts), card.across):
        row = prompts[start : start + card.across]
        seeds = [torch.Generator().manual_seed(card.seed + start + i) for i in range(len(row))]
        settings = {"num_inference_steps": card.steps, "guidance_scale": card.guidance, "generator": seeds}
        pictures += pipe(row, **settings).images
    return pictures


def text(world: World, card: Card, prompts: list[str], measured: str) -> str:
    """The card in Markdown."""
    records = sorted(read_json(ICONS / "sources.json").values(), key=lambda record: str(record["style"]))
    rows = "\n".join(source_row(record) for record in records if record["style"] in world.styles)
    return TEMPLATE.read_text(encoding="utf-8").format(
        concepts=len(world.concepts),
        styles=", ".join(world.styles),
        colours=", ".join(world.colours),
        held_out_concepts=", ".join(world.held_out_concepts),
        held_out_style=", ".join(world.held_out_styles),
        measured=measured,
        steps=card.steps,
        guidance=card.guidance,
        cost=card.cost,
        first=prompts[0],
        last=prompts[-1],
        sources=rows,
    )


if __name__ == "__main__":
    run(card)
