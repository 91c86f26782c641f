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
    (folder / "README.md").write_text(TEMPLATE.format(**similarity, steps=card.steps), encoding="utf-8")


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


TEMPLATE = """# The miniature, told of a picture

The [miniature](../miniature/README.md), taught by the stage *unclip* of `miniature` to take a CLIP image
embedding beside the caption, as Stable unCLIP 2.1 does: the base of CLIP inversion.

![samples](samples.png)

Odd rows: pictures given. Even rows: drawn from their embeddings alone, without words, {steps} steps, guidance 3. The
concepts of the lower half were held out of all training.

```python
from diffusers import StableUnCLIPImg2ImgPipeline
pipe = StableUnCLIPImg2ImgPipeline.from_pretrained("models/miniature-unclip")
pipe(picture, prompt="", num_inference_steps=20, guidance_scale=3).images[0]
```

| cosine between the picture given and the one drawn, by its own CLIP | |
|---|---|
| known concepts | {known} |
| held-out concepts | {held_out} |

The autoencoder, the text encoder and the tokenizer are links into `../miniature`, so keep both folders side by side.
Limits, sources and licences are the miniature's.
"""
