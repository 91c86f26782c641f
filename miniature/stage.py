"""What the training stages share: the run's settings, its report, and sheets of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from etude.core.params import Schema, pick
from etude.core.randomness import make_deterministic
from etude.training.processes import spread
from etude.training.report import Report
from miniature.world import FOLDER

SCRATCH = Path(".scratch/miniature")


class Run(Schema):
    """The ``run`` block of params.yaml."""

    seed: int
    device: Literal["cpu", "cuda"]
    processes: int
    precision: Literal["fp32", "bf16"]


class StageParams(Schema):
    """The part of params.yaml that all training stages read."""

    run: Run


def make_report(stage: str, threads: int) -> Report:
    """The report of a training stage; its state and previews are in ``.scratch/miniature/<stage>``.

    Sets the number of threads, on which the last bits of a sum depend.
    """
    settings = pick(FOLDER / "params.yaml", StageParams).run
    make_deterministic(threads)
    return Report(SCRATCH / stage, settings.seed, settings.device, settings.precision)


def in_processes() -> None:
    """Continue in several processes that average their gradients, if params.yaml sets more than one."""
    spread(pick(FOLDER / "params.yaml", StageParams).run.processes)


def in_parts(tensor: Tensor, size: int) -> list[Tensor]:
    """Split ``tensor`` into parts of at most ``size`` rows, to fit into memory."""
    return [tensor[start : start + size] for start in range(0, len(tensor), size)]


def pixels_to_picture(images: Tensor) -> list[Image.Image]:
    """Float [B, 3, H, W] from -1 to 1 → pictures."""
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(np.ascontiguousarray(array)) for array in pixels]


def tile(pictures: list[Image.Image], across: int) -> Image.Image:
    """One sheet of pictures of equal size, ``across`` in a row."""
    width, height = pictures[0].size
    sheet = Image.new("RGB", (across * width, -(-len(pictures) // across) * height), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % across * width, i // across * height))
    return sheet
