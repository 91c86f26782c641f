"""Positions on a sheet, against numbers that were worked out by hand."""

from __future__ import annotations

import pytest

from etude.core.errors import ParamsError
from etude.grids.layout import Label, Layout, Sheet, refuse_huge
from etude.grids.text import font, height, wrap


def layout(columns: str = "", rows: str = "", blocks: str = "", cell: tuple[int, int] = (180, 270)) -> Layout:
    """The layout of a sheet with a title for each letter; a space is an empty title."""
    named = [[Label(letter.strip()) for letter in letters or " "] for letters in (columns, rows, blocks)]
    return Layout(Sheet("lora", "what", named[0], named[1], named[2], cell))


def test_everything_has_its_place_in_proportion_to_the_smaller_side_of_a_cell() -> None:
    plan = layout("ab", "cde", "fg")
    assert (plan.font, plan.gap, plan.margin) == (20, 5, 40)
    assert plan.gutter == 135  # three quarters of a cell
    assert plan.block_width == 135 + 180 + 5 + 180
    assert plan.cells_top == (26 + 10) + (26 + 10)  # a line of the block's title and one of the columns'
    assert plan.block_height == 72 + 270 + 5 + 270 + 5 + 270
    assert plan.across == 2
    assert plan.size == (40 + 500 + 40 + 500 + 40, 40 + 892 + 40)
    assert plan.head == 3 * 20 + 26 + 20
    assert plan.full == (1120, 106 + 972)
    assert [plan.block(number) for number in (0, 1)] == [(40, 146), (580, 146)]
    assert plan.cell(0, 0, 0) == (40 + 135, 146 + 72)
    assert plan.cell(1, 2, 1) == (580 + 135 + 185, 146 + 72 + 2 * 275)


def test_blocks_that_do_not_fit_beside_each_other_follow_below() -> None:
    plan = layout(blocks="abc" * 4, cell=(180, 180))
    assert plan.across == 4
    assert plan.block(5) == (40 + 220, 106 + 40 + plan.block_height + 40)
    assert plan.full[1] == 106 + 40 + 3 * (plan.block_height + 40)


def test_labels_are_legible_and_pictures_apart_in_the_smallest_cells() -> None:
    plan = layout("a", "b", cell=(32, 32))
    assert (plan.font, plan.gap, plan.gutter) == (12, 2, 72)


@pytest.mark.parametrize(
    ("count", "across"), [(1, 1), (2, 2), (3, 2), (4, 2), (5, 3), (6, 3), (7, 4), (12, 4), (15, 5)]
)
def test_square_blocks_fill_a_sheet_of_about_4_to_3_with_few_empty_places(count: int, across: int) -> None:
    assert layout(blocks=" " * count, cell=(180, 180)).across == across


def test_a_block_without_titles_is_its_cells_alone() -> None:
    plan = layout("  ", "   ")
    assert (plan.block_width, plan.block_height) == (180 + 5 + 180, 270 + 5 + 270 + 5 + 270)


def test_the_tallest_title_of_a_row_of_columns_makes_room_for_all() -> None:
    labels = [Label("a"), Label("many words that need some lines"), Label("b")]
    plan = Layout(Sheet("lora", "what", labels, [Label("")], [Label("")], (90, 90)))
    lines = len(plan.column_titles[1])
    assert lines > 1
    assert plan.cells_top == height(["a"] * lines, 12) + 6


def test_a_row_title_keeps_a_letters_distance_from_its_cells() -> None:
    labels = [Label("many words that need some lines")]
    plan = Layout(Sheet("lora", "what", [Label("")], labels, [Label("")], (180, 180)))
    assert plan.row_titles[0] == wrap(labels[0].text, 20, 135 - 20)


def test_a_subtitle_has_the_width_of_the_sheet_within_its_margins() -> None:
    plan = Layout(Sheet("lora", "word " * 20, [Label("")], [Label("")], [Label("")], (180, 180)))
    assert plan.subtitle == wrap("word " * 20, 20, 180)
    assert plan.head == 80 + height(plan.subtitle, 20)


def test_a_sheet_below_the_limit_is_drawn_and_one_above_it_is_refused() -> None:
    plan = layout(cell=(1000, 1000))
    width, tall = plan.full
    assert 2_000_000 < width * tall < 3_000_000
    refuse_huge(plan, 3)
    with pytest.raises(ParamsError, match=rf"the grid would be {width} × {tall}, . megapixels, above `limit` 2"):
        refuse_huge(plan, 2)


def test_lines_stand_1_3_letters_apart() -> None:
    assert [height(["a"] * lines, 20) for lines in (1, 2, 3)] == [26, 52, 78]


def test_words_stay_on_a_line_that_is_just_wide_enough_and_break_on_a_smaller_one() -> None:
    width = font(20).getlength("red fox")
    assert wrap("red fox", 20, width) == ["red fox"]
    assert wrap("red fox", 20, width - 1) == ["red", "fox"]
    width = font(20).getlength("aaaa")
    assert wrap("aaaaaaaa", 20, width) == ["aaaa", "aaaa"]
    assert wrap("aaaaaaaa", 20, 1) == list("aaaaaaaa")  # at least a letter a line
