"""Encode smaller and larger views of an image set's pictures: ``artifacts/<method>/views/<set>/``.

Each view is encoded once and cached in ``.cache/``, like pictures in *encode*.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from etude.core.errors import InputError
from etude.core.files import read_json, write_json
from etude.core.params import pick
from etude.core.shards import write_shards
from etude.core.tensors import read_tensors
from etude.training.augmentation import KINDS, MASK, Augmentation, HasViews
from tasks import encode
from tasks.shell import publish, run
from tasks.shell.console import progress, say

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

__all__ = ["StageParams", "views"]


class StageParams(encode.PictureParams):
    """The parts of params.yaml that this stage depends on."""


def views(method: str, name: str) -> None:
    """Make and encode the views of the image set NAME that METHOD learns."""
    stage_params = pick("params.yaml", StageParams)
    settings = pick(Path("pipelines", method, "params.yaml"), HasViews).augmentation
    from etude.core.randomness import make_deterministic

    make_deterministic(stage_params.threads)
    pictures = sorted(Path("data", name, "prepared").glob("*.png"))
    if not pictures:
        raise InputError(f"data/{name}/prepared", "holds no pictures", "run `dvc repro` so that *prepare* fills it")
    entries, encoder = encode.Entries("vae", stage_params), cache(lambda: encode.open_vae(stage_params))
    made: dict[str, tuple[Path, dict[str, Tensor]]] = {}
    kinds: dict[str, str] = {}
    for path in progress(pictures, f"{name}: views"):
        for number, (picture, masks, kind) in enumerate(_views(path, settings)):
            entry = f"{path.stem}-{number:03d}"
            kinds[entry] = kind
            made[entry] = entries.path(f"{path} {number}", encoder, picture.size, picture.tobytes()), masks
    with publish(Path("artifacts", method, "views", name)) as out:
        write_shards(out, made, lambda entry: read_tensors(made[entry][0])[0] | made[entry][1])
        write_json(out / KINDS, kinds)
        encode.write_repeats(out, _sources(Path("data", name, "prepared"), made))
    say(f"{method}: views of {len(pictures)} pictures of {name}: {entries}")


def _sources(prepared: Path, entries: Iterable[str]) -> dict[str, list[str]]:
    """The files of each view's picture."""
    images = read_json(prepared / "images.json")["images"]
    return {entry: images[entry.rpartition("-")[0]]["sources"] for entry in entries}


def _views(path: Path, settings: Augmentation) -> Iterator[tuple[Image.Image, dict[str, Tensor], str]]:
    """Each view with its masks and kind. They depend only on picture name, view number and seed.

    MASK is uint8 [h, w], 1 where the picture is; "attention" is the grey of the picture's own mask, if it has one.
    """
    import torch
    from PIL import Image

    from etude.core.pictures import open_prepared
    from etude.images.views import CELL, counted, place, view

    size, pixels = encode.read_pixels(path)
    picture = Image.frombytes("RGB", size, pixels)
    shape = (size[1] // CELL, size[0] // CELL)
    own = path.parent / "attention" / path.name
    grey = open_prepared(own).convert("RGB") if own.exists() else None
    if not settings.views:
        yield picture, {MASK: torch.ones(shape, dtype=torch.uint8)} | _greys(grey, shape), "whole"
    for number in range(settings.views):
        placing = place(size, settings, Random(f"{settings.seed}/{path.stem}/{number}"))
        mask = torch.zeros(shape, dtype=torch.uint8)
        columns, rows = counted(size, placing)
        mask[rows.start : rows.stop, columns.start : columns.stop] = 1
        yield view(picture, placing), {MASK: mask} | _greys(grey and view(grey, placing), shape), placing.kind


def _greys(mask: Image.Image | None, shape: tuple[int, int]) -> dict[str, Tensor]:
    return {"attention": encode.grey_of(mask, *shape)} if mask else {}


if __name__ == "__main__":
    run(views)
