"""The position of everything on a sheet: only geometry, so that a sheet that is too large is refused before drawing.

title, subtitle
┌ block (one z) ───────────────────┐
│ its title                        │
│          column   column  column │
│ row      ▢        ▢       ▢      │
└──────────────────────────────────┘   more blocks to the right and below
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from etude.core.errors import ParamsError
from etude.grids.text import height, wrap


@dataclass(frozen=True)
class Label:
    """A title; it is grey if ``quiet`` (the untouched base), and underlined if ``marked`` (the best checkpoint)."""

    text: str
    quiet: bool = False
    marked: bool = False


@dataclass(frozen=True)
class Sheet:
    """The titles of a grid, and the size of a cell in pixels."""

    title: str
    subtitle: str
    columns: Sequence[Label]
    rows: Sequence[Label]
    blocks: Sequence[Label]
    cell: tuple[int, int]  # width, height


@dataclass(frozen=True)
class Layout:
    """Pixel positions of a sheet's parts."""

    sheet: Sheet

    @property
    def font(self) -> int:
        """Font size of labels: in proportion to the cell, but at least 12 pixels, to be legible."""
        return max(12, min(self.sheet.cell) // 9)

    @property
    def gap(self) -> int:
        """Pixels between cells."""
        return max(2, min(self.sheet.cell) // 32)

    @property
    def margin(self) -> int:
        """Pixels around the sheet and between blocks."""
        return 2 * self.font

    @property
    def gutter(self) -> int:
        """Width of the column of row titles: three quarters of a cell (as in A1111), 0 without titles."""
        if not any(row.text for row in self.sheet.rows):
            return 0
        return max(self.sheet.cell[0] * 3 // 4, 6 * self.font)

    def lines(self, label: Label, width: int) -> list[str]:
        """A label's text, broken into lines that fit into ``width``."""
        return wrap(label.text, self.font, width)

    @cached_property
    def column_titles(self) -> list[list[str]]:
        """Lines above each column."""
        return [self.lines(label, self.sheet.cell[0]) for label in self.sheet.columns]

    @cached_property
    def row_titles(self) -> list[list[str]]:
        """Lines left of each row."""
        return [self.lines(label, self.gutter - self.font) if self.gutter else [""] for label in self.sheet.rows]

    @cached_property
    def block_titles(self) -> list[list[str]]:
        """Lines above each block."""
        return [self.lines(label, self.block_width) for label in self.sheet.blocks]

    @property
    def block_width(self) -> int:
        """Width of one block, without margins."""
        columns = len(self.sheet.columns)
        return self.gutter + columns * self.sheet.cell[0] + (columns - 1) * self.gap

    @cached_property
    def row_heights(self) -> list[int]:
        """The height of each row: its cell's or its title's, whichever is larger."""
        return [max(self.sheet.cell[1], height(lines, self.font)) for lines in self.row_titles]

    @cached_property
    def cells_top(self) -> int:
        """Distance from the top of a block to its first row: the height of block title and column titles."""
        titled = any(label.text for label in self.sheet.blocks)
        above = max(height(lines, self.font) for lines in self.block_titles) + self.font // 2 if titled else 0
        titled = any(label.text for label in self.sheet.columns)
        return above + (max(height(lines, self.font) for lines in self.column_titles) + self.font // 2 if titled else 0)

    @property
    def block_height(self) -> int:
        """Height of one block, without margins."""
        return self.cells_top + sum(self.row_heights) + (len(self.row_heights) - 1) * self.gap

    @cached_property
    def across(self) -> int:
        """Number of blocks side by side, so that the sheet is close to 4 : 3 and few places stay empty."""
        count = len(self.sheet.blocks)

        def badness(across: int) -> float:
            down = math.ceil(count / across)
            shape = across * (self.block_width + self.margin) / (down * (self.block_height + self.margin))
            return abs(math.log(shape / (4 / 3))) + (across * down - count) / count

        return min(range(1, count + 1), key=badness)

    @cached_property
    def head(self) -> int:
        """Height of the band with title and subtitle."""
        return 3 * self.font + height(self.subtitle, self.font) + self.font

    @cached_property
    def subtitle(self) -> list[str]:
        """The lines of the subtitle, over the whole width."""
        return wrap(self.sheet.subtitle, self.font, self.size[0] - 2 * self.margin)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width of the whole sheet, and its height below the head."""
        down = math.ceil(len(self.sheet.blocks) / self.across)
        width = self.margin + self.across * (self.block_width + self.margin)
        return width, self.margin + down * (self.block_height + self.margin)

    @property
    def full(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.size[0], self.head + self.size[1]

    def block(self, number: int) -> tuple[int, int]:
        """Left and top of a block."""
        down, right = divmod(number, self.across)
        left = self.margin + right * (self.block_width + self.margin)
        return left, self.head + self.margin + down * (self.block_height + self.margin)

    def cell(self, x: int, y: int, z: int) -> tuple[int, int]:
        """Left and top of a cell."""
        left, top = self.block(z)
        left += self.gutter + x * (self.sheet.cell[0] + self.gap)
        return left, top + self.cells_top + sum(self.row_heights[:y]) + y * self.gap


def refuse_huge(layout: Layout, limit: int) -> None:
    """Raise ParamsError if the sheet has more than ``limit`` megapixels."""
    width, tall = layout.full
    if width * tall > limit * 1_000_000:
        fault = f"the grid would be {width} × {tall}, {width * tall / 1e6:.0f} megapixels, above `limit` {limit}"
        raise ParamsError("params.yaml: grid", fault, "take fewer values, a smaller `cell`, or raise `limit`")
