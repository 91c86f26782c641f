"""Where everything on a sheet stands: geometry alone, so that a sheet too large is refused before it is drawn.

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
    """A title; ``quiet`` ones are grey (the untouched base), ``marked`` ones are underlined (the best)."""

    text: str
    quiet: bool = False
    marked: bool = False


@dataclass(frozen=True)
class Sheet:
    """What a grid shows: titles, and the side of a cell in pixels."""

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
        """Size of labels: legible at small cells, in proportion at large ones."""
        return max(12, min(self.sheet.cell) // 9)

    @property
    def gap(self) -> int:
        """Between cells."""
        return max(2, min(self.sheet.cell) // 32)

    @property
    def margin(self) -> int:
        """Around the sheet and between blocks."""
        return 2 * self.font

    @property
    def gutter(self) -> int:
        """Room for row titles: three quarters of a cell (as A1111), none without titles."""
        if not any(row.text for row in self.sheet.rows):
            return 0
        return max(self.sheet.cell[0] * 3 // 4, 6 * self.font)

    def lines(self, label: Label, width: int) -> list[str]:
        """A label's lines at the size of labels."""
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
        """One block, without margins."""
        columns = len(self.sheet.columns)
        return self.gutter + columns * self.sheet.cell[0] + (columns - 1) * self.gap

    @cached_property
    def row_heights(self) -> list[int]:
        """A cell's height, or its title's where that is more."""
        return [max(self.sheet.cell[1], height(lines, self.font)) for lines in self.row_titles]

    @cached_property
    def cells_top(self) -> int:
        """From the top of a block to its first row: block title and column titles."""
        titled = any(label.text for label in self.sheet.blocks)
        above = max(height(lines, self.font) for lines in self.block_titles) + self.font // 2 if titled else 0
        titled = any(label.text for label in self.sheet.columns)
        return above + (max(height(lines, self.font) for lines in self.column_titles) + self.font // 2 if titled else 0)

    @property
    def block_height(self) -> int:
        """One block, without margins."""
        return self.cells_top + sum(self.row_heights) + (len(self.row_heights) - 1) * self.gap

    @cached_property
    def across(self) -> int:
        """Blocks side by side: what brings the sheet nearest to 4 : 3, and leaves few places empty."""
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
        """Its lines, over the whole width."""
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
    """Raise ParamsError when the sheet has more than ``limit`` megapixels."""
    width, tall = layout.full
    if width * tall > limit * 1_000_000:
        fault = f"the grid would be {width} × {tall}, {width * tall / 1e6:.0f} megapixels, above `limit` {limit}"
        raise ParamsError("params.yaml: grid", fault, "take fewer values, a smaller `cell`, or raise `limit`")
