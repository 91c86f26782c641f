"""A thumbnail of a file that marks what its crops show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from etude.core.errors import InputError
from etude.core.prepared import is_copy
from etude.images.crop import fitted, scaled
from etude.images.decode import read_picture

CROP, FACE = "#00a040", "#ffb000"
DARK = 0.3  # the share of brightness that areas outside all crops keep

Entry = Mapping[str, Any]  # of `images` in images.json


def group_entries(listing: Mapping[str, Any]) -> dict[str, dict[str, Entry]]:
    """The training pictures of each file, by their ids; copies left out. ``listing`` is images.json."""
    groups: dict[str, dict[str, Entry]] = {}
    for identifier, entry in listing["images"].items():
        if not is_copy(entry):
            groups.setdefault(entry["sources"][0], {})[identifier] = entry
    return groups


def share_kept(entries: Sequence[Entry]) -> float:
    """The share of a picture that its crops show; where crops of a split picture overlap, each one counts."""
    width, height = entries[0]["source_size"]
    area = 0.0
    for left, top, right, bottom in (entry["crop"] for entry in entries):
        area += (right - left) * (bottom - top)
    return area / float(width * height)


def draw_tile(path: Path, entries: Sequence[Entry], name: str, side: int) -> Image.Image:
    """The picture at ``path``, ``side`` px at its longer side; areas outside all crops are dark, faces are outlined.

    ``entries`` are its training pictures in the image set ``name``. Raises InputError if it was removed or changed
    since it was cut.
    """
    if not path.is_file():
        raise InputError(
            path, "was cut into training pictures, but no longer exists", f"run `dvc repro prepare@{name}`"
        )
    picture = read_picture(path, (255, 255, 255), enough=partial(fitted, side=side))
    width, height = entries[0]["source_size"]
    if picture.size != (width, height):
        raise InputError(path, "has changed since it was cut", f"run `dvc repro prepare@{name}`")
    bright = picture.image.resize(fitted(picture.image.size, side), reducing_gap=2.0)
    scale = bright.width / width, bright.height / height
    tile = bright.point(lambda value: value * DARK)
    draw = ImageDraw.Draw(tile)
    boxes = [scaled(entry["crop"], *scale) for entry in entries]
    for left, top, right, bottom in boxes:
        part = round(left), round(top), round(right), round(bottom)
        tile.paste(bright.crop(part), part)
    if any(entry["crop"] != [0, 0, width, height] for entry in entries):
        for left, top, right, bottom in boxes:  # a box that is thinner than a pixel is drawn as a line
            draw.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), outline=CROP, width=2)
    for face in entries[0].get("faces", []):
        draw.rectangle(scaled(face, *scale), outline=FACE, width=1)
    return tile
