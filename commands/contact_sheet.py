"""Contact sheets of an image set: every crop on its picture, in ``logs/crops/<set>/``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from etude.core.errors import InputError
from etude.core.files import read_json, replace_folder
from etude.core.params import image_folder
from etude.grids.text import height, wrap, write
from etude.inspection.tiles import draw_tile, group_entries, share_kept
from tasks.shell.console import progress, shorten

SHEETS = Path("logs/crops")
COLUMNS, ROWS = 7, 6  # pictures on a sheet
SIDE, GAP = 216, 12  # px: the longest side of a picture, and the space around it
FONT, LINES, NAME = 13, 2, 60  # px, lines and characters of a name
GROUND, TEXT = "#ffffff", "#202020"


def draw_sheets(name: str) -> list[Path]:
    """Draw the sheets of the image set ``name``, which replace its earlier ones; returns their paths.

    Raises InputError where the set was not prepared, or a picture of it is no longer there.
    """
    folder, listing = image_folder(name), Path("data", name, "prepared", "images.json")
    if not listing.is_file():
        raise InputError(listing, "is missing: this set is not prepared yet", f"run `dvc repro prepare@{name}`")
    pictures = {file: list(entries.values()) for file, entries in group_entries(read_json(listing)).items()}
    files = sorted(pictures, key=lambda file: (share_kept(pictures[file]), file))
    pages = [files[start : start + COLUMNS * ROWS] for start in range(0, len(files), COLUMNS * ROWS)]
    with replace_folder(SHEETS / name) as out:
        for number, page in enumerate(progress(pages, f"{name}: sheets"), start=1):
            tiles = [(file, draw_tile(folder / file, pictures[file], name, SIDE)) for file in page]
            _sheet(tiles).save(out / f"{number:03d}.jpg", quality=90)
    return [SHEETS / name / f"{number:03d}.jpg" for number in range(1, len(pages) + 1)]


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
