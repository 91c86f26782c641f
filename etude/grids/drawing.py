"""Paint a sheet: pictures in their cells, with titles. Equal inputs give equal bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw

from etude.grids.layout import Label, Layout
from etude.grids.text import font, height, write, write_centred
from etude.rendering.pixels import open_picture

PAPER, BAND, BLACK, GREY, RULE = "#ffffff", "#f3f3f1", "#111111", "#767676", "#d9d9d6"


def paint(layout: Layout, pictures: Mapping[tuple[int, int, int], Path]) -> Image.Image:
    """The sheet with ``pictures`` by (column, row, block); a position without one stays an empty frame."""
    sheet = Image.new("RGB", layout.full, PAPER)
    draw = ImageDraw.Draw(sheet)
    _head(draw, layout)
    for z, label in enumerate(layout.sheet.blocks):
        _titles(draw, layout, z, label)
    for position, path in sorted(pictures.items()):
        left, top = layout.cell(*position)
        picture = _fitted(path, layout.sheet.cell)
        width, tall = layout.sheet.cell
        draw.rectangle((left - 1, top - 1, left + width, top + tall), outline=RULE)  # a white picture shows too
        sheet.paste(picture, (left + (width - picture.width) // 2, top + (tall - picture.height) // 2))
    return sheet


def _head(draw: ImageDraw.ImageDraw, layout: Layout) -> None:
    size = layout.font
    draw.rectangle((0, 0, layout.full[0], layout.head - 1), fill=BAND)
    draw.line((0, layout.head - 1, layout.full[0], layout.head - 1), fill=RULE)
    draw.text((layout.margin, 2 * size), layout.sheet.title, font=font(size * 3 // 2), fill=BLACK, anchor="lm")
    write(draw, layout.subtitle, layout.margin, 3 * size + size // 4, size, GREY)


def _titles(draw: ImageDraw.ImageDraw, layout: Layout, z: int, label: Label) -> None:
    left, top = layout.block(z)
    size = layout.font
    write(draw, layout.block_titles[z], left, top, size, BLACK if not label.quiet else GREY)
    foot = top + layout.cells_top - size // 2
    for x, (column, lines) in enumerate(zip(layout.sheet.columns, layout.column_titles, strict=True)):
        centre = layout.cell(x, 0, z)[0] + layout.sheet.cell[0] // 2
        write_centred(draw, lines, centre, foot - height(lines, size), size, GREY if column.quiet else BLACK)
        if column.marked:
            _underline(draw, lines, centre, foot, size)
    for y, (row, lines) in enumerate(zip(layout.sheet.rows, layout.row_titles, strict=True)):
        middle = layout.cell(0, y, z)[1] + layout.row_heights[y] // 2
        write(draw, lines, left, middle - height(lines, size) // 2, size, GREY if row.quiet else BLACK)
        if row.marked:
            half = round(max(font(size).getlength(line) for line in lines) / 2)
            _underline(draw, lines, left + half, middle + height(lines, size) // 2, size)


def _underline(draw: ImageDraw.ImageDraw, lines: list[str], centre: int, top: int, size: int) -> None:
    half = round(max(font(size).getlength(line) for line in lines) / 2)
    draw.rectangle((centre - half, top, centre + half, top + max(1, size // 10)), fill=BLACK)


def _fitted(path: Path, cell: tuple[int, int]) -> Image.Image:
    """The picture, scaled to fit into the cell; its proportions stay."""
    picture = open_picture(path)
    scale = min(cell[0] / picture.width, cell[1] / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture if size == picture.size else picture.resize(size, Image.Resampling.LANCZOS)
