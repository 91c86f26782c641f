"""Contact sheets of an image set: every crop on its picture, in ``logs/crops/<set>/``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from etude.core.errors import InputError
from etude.core.files import read_json, replace_folder
from etude.core.params import image_folder
from etude.grids.text import height, wrap, write
from etude.images.crop import fitted, scaled
from etude.images.decode import read_picture
from tasks.shell.console import progress, shorten

SHEETS = Path("logs/crops")
COLUMNS, ROWS = 7, 6  # pictures on a sheet
SIDE, GAP = 216, 12  # px: the longest side of a picture, and the space around it
FONT, LINES, NAME = 13, 2, 60  # px, lines and characters of a name
GROUND, TEXT, CROP, FACE = "#ffffff", "#202020", "#00a040", "#ffb000"
DARK = 0.3  # the share of its brightness that is left to what no crop shows

Entry = dict[str, Any]


def draw_sheets(name: str) -> list[Path]:
    """Draw the sheets of the image set ``name`` in place of its earlier ones; their paths.

    Raises InputError where the set was not prepared, or a picture of it is no longer there.
    """
    folder, listing = image_folder(name), Path("data", name, "prepared", "images.json")
    if not listing.is_file():
        raise InputError(listing, "is not there", f"run `dvc repro prepare@{name}`")
    pictures: dict[str, list[Entry]] = {}
    for entry in read_json(listing)["images"].values():
        if not entry["flipped"]:
            pictures.setdefault(entry["sources"][0], []).append(entry)
    files = sorted(pictures, key=lambda file: (_share_kept(pictures[file]), file))
    pages = [files[start : start + COLUMNS * ROWS] for start in range(0, len(files), COLUMNS * ROWS)]
    with replace_folder(SHEETS / name) as out:
        for number, page in enumerate(progress(pages, f"{name}: sheets"), start=1):
            tiles = [(file, _tile(folder / file, pictures[file], name)) for file in page]
            _sheet(tiles).save(out / f"{number:03d}.jpg", quality=90)
    return [SHEETS / name / f"{number:03d}.jpg" for number in range(1, len(pages) + 1)]


def _share_kept(entries: Sequence[Entry]) -> float:
    """Which share of a picture its crops show; those of a split picture count as often as they overlap."""
    width, height = entries[0]["source_size"]
    area = 0.0
    for left, top, right, bottom in (entry["crop"] for entry in entries):
        area += (right - left) * (bottom - top)
    return area / float(width * height)


def _tile(path: Path, entries: Sequence[Entry], name: str) -> Image.Image:
    """The picture, small, with the outlines of its crops; what none of them shows is darkened."""
    if not path.is_file():
        raise InputError(path, "was cut, and is no longer there", f"run `dvc repro prepare@{name}`")
    picture = read_picture(path, (255, 255, 255), enough=partial(fitted, side=SIDE))
    width, height = entries[0]["source_size"]
    if picture.size != (width, height):
        raise InputError(path, "has changed since it was cut", f"run `dvc repro prepare@{name}`")
    bright = picture.image.resize(fitted(picture.image.size, SIDE), reducing_gap=2.0)
    scale = bright.width / width, bright.height / height
    tile = bright.point(lambda value: value * DARK)
    draw = ImageDraw.Draw(tile)
    boxes = [scaled(entry["crop"], *scale) for entry in entries]
    for left, top, right, bottom in boxes:
        part = round(left), round(top), round(right), round(bottom)
        tile.paste(bright.crop(part), part)
    for left, top, right, bottom in boxes:  # one that is thinner than a pixel is drawn as a line
        draw.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), outline=CROP, width=2)
    for face in entries[0].get("faces", []):
        draw.rectangle(scaled(face, *scale), outline=FACE, width=1)
    return tile


def _sheet(tiles: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """The tiles in rows, each with the name of its file below."""
    across, down = SIDE + GAP, SIDE + GAP + height([""] * LINES, FONT)
    rows = -(-len(tiles) // COLUMNS)
    sheet = Image.new("RGB", (min(len(tiles), COLUMNS) * across + GAP, rows * down + GAP), GROUND)
    draw = ImageDraw.Draw(sheet)
    for number, (file, tile) in enumerate(tiles):
        left, top = GAP + number % COLUMNS * across, GAP + number // COLUMNS * down
        sheet.paste(tile, (left + (SIDE - tile.width) // 2, top + (SIDE - tile.height) // 2))
        write(draw, wrap(shorten(file, NAME), FONT, SIDE)[:LINES], left, top + SIDE, FONT, TEXT)
    return sheet
