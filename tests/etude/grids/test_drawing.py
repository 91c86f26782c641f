from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from etude.core.errors import InputError, ParamsError
from etude.grids.drawing import BAND, GREY, PAPER, RULE, paint
from etude.grids.layout import Label, Layout, Sheet, refuse_huge
from etude.grids.text import font, wrap

WHITE, RED = (255, 255, 255), (200, 30, 30)


def layout(columns: Sequence[Label] = (), rows: Sequence[Label] = (), blocks: int = 1, cell: int = 64) -> Layout:
    titles = [Label(f"seed {number}" if blocks > 1 else "") for number in range(blocks)]
    return Layout(Sheet("lora", "what", columns or [Label("")], rows or [Label("")], titles, (cell, cell)))


@pytest.fixture
def red(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 64), RED).save(tmp_path / "red.png")
    return tmp_path / "red.png"


def dark(picture: Image.Image, box: tuple[int, int, int, int]) -> int:
    return int((np.asarray(picture.crop(box).convert("L")) < 100).sum())


def test_a_picture_lies_in_its_cell_pixel_for_pixel(red: Path) -> None:
    plan = layout([Label("a"), Label("b")], [Label("c"), Label("d")])
    made = np.asarray(paint(plan, {(1, 0, 0): red}))
    left, top = plan.cell(1, 0, 0)
    assert (made[top : top + 64, left : left + 64] == RED).all()
    assert not (made[:, : left - 1] == RED).all(axis=-1).any()
    assert (made == RED).all(axis=-1).sum() == 64 * 64


def test_cells_do_not_touch_and_lie_within_the_sheet() -> None:
    plan = layout([Label("a"), Label("b")], [Label("c"), Label("d")], blocks=3)
    places = [plan.cell(x, y, z) for x in range(2) for y in range(2) for z in range(3)]
    for left, top in places:
        assert 0 <= left <= plan.full[0] - 64
        assert plan.head <= top <= plan.full[1] - 64
    apart = [max(abs(a - c), abs(b - d)) for a, b in places for c, d in places if (a, b) != (c, d)]
    assert min(apart) >= 64 + plan.gap


def test_another_shape_is_scaled_with_its_proportions_and_centred(tmp_path: Path) -> None:
    Image.new("RGB", (200, 100), RED).save(tmp_path / "wide.png")
    plan = layout()
    made = np.asarray(paint(plan, {(0, 0, 0): tmp_path / "wide.png"}))
    left, top = plan.cell(0, 0, 0)
    cell = made[top : top + 64, left : left + 64]
    assert (cell[16:48] == RED).all()
    assert (cell[:16] == WHITE).all()
    assert (cell[48:] == WHITE).all()


def test_titles_stand_beside_their_cells_the_best_is_underlined_and_the_base_is_grey(red: Path) -> None:
    plan = layout([Label("base", quiet=True), Label("best", marked=True)], [Label("prompt")])
    made = paint(plan, {(0, 0, 0): red, (1, 0, 0): red})
    tops = [plan.cell(x, 0, 0) for x in range(2)]
    first, second = ((left, top - plan.cells_top, left + 64, top - 2) for left, top in tops)
    assert dark(made, first) == 0
    assert dark(made, second) > 50
    left, top = tops[1]
    underline = np.asarray(made.convert("L").crop((left, top - plan.font // 2, left + 64, top - 2)))
    assert (underline < 100).any(axis=0).sum() >= font(plan.font).getlength("best") - 2
    assert Image.new("RGB", (1, 1), GREY).getpixel((0, 0)) in set(made.crop(first).get_flattened_data())
    row = plan.cell(0, 0, 0)
    assert dark(made, (row[0] - plan.gutter, row[1], row[0] - 2, row[1] + 64)) > 50


def test_without_titles_no_room_is_kept_for_them() -> None:
    assert layout().gutter == 0
    assert layout().cells_top == 0


def test_the_header_is_a_band_over_the_whole_width(red: Path) -> None:
    made = paint(layout(), {(0, 0, 0): red})
    assert made.getpixel((0, 0)) == Image.new("RGB", (1, 1), BAND).getpixel((0, 0))
    assert made.getpixel((made.width - 1, made.height - 1)) == Image.new("RGB", (1, 1), PAPER).getpixel((0, 0))


def test_words_wrap_at_the_width_and_long_ones_break() -> None:
    lines = wrap("a glossy sks on a red background supercalifragilisticexpialidocious", 12, 80)
    assert "".join(lines).replace(" ", "").endswith("supercalifragilisticexpialidocious")
    assert len(lines) > 3
    assert max(font(12).getlength(line) for line in lines) <= 80
    assert wrap("", 12, 80) == [""]


def test_a_row_grows_with_a_title_that_is_taller_than_a_cell() -> None:
    plan = layout(rows=[Label("word " * 60), Label("short")])
    assert plan.row_heights[0] > 64
    assert plan.row_heights[1] == 64


def test_equal_sheets_have_equal_bytes(red: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        paint(layout([Label("a")], [Label("b")], blocks=2), {(0, 0, 1): red}).save(tmp_path / f"{name}.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_a_sheet_above_the_limit_is_refused_with_its_size() -> None:
    plan = layout([Label(str(number)) for number in range(100)], [Label(str(number)) for number in range(100)])
    with pytest.raises(ParamsError, match=r"megapixels, above `limit` 4"):
        refuse_huge(plan, 4)
    refuse_huge(plan, 100)


def test_a_missing_or_broken_picture_is_named(red: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.png: is missing"):
        paint(layout(), {(0, 0, 0): tmp_path / "gone.png"})
    red.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"red\.png: cannot be read as a picture"):
        paint(layout(), {(0, 0, 0): red})


def ink(picture: Image.Image, box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) around what is written in a part of a sheet, in pixels of the sheet."""
    written = np.argwhere(np.asarray(picture.crop(box).convert("L")) < 150)
    (top, left), (bottom, right) = written.min(axis=0), written.max(axis=0)
    return box[0] + int(left), box[1] + int(top), box[0] + int(right), box[1] + int(bottom)


def large() -> Layout:
    """A sheet whose letters are 20 px large."""
    columns = [Label("HHH", marked=True), Label("HHHHH")]
    return Layout(Sheet("HHHH", "HHHHH", columns, [Label("HHH", marked=True)], [Label("HH"), Label("HH")], (180, 180)))


def test_title_and_subtitle_stand_in_the_band_at_the_left_margin() -> None:
    plan = large()
    made = paint(plan, {})
    title, subtitle = ink(made, (0, 0, plan.full[0], 58)), ink(made, (0, 58, plan.full[0], plan.head - 2))
    assert title[0] == pytest.approx(40, abs=3)
    assert (title[1] + title[3]) / 2 == pytest.approx(40, abs=2)
    assert subtitle[0] == pytest.approx(40, abs=3)
    assert (subtitle[1] + subtitle[3]) / 2 == pytest.approx(65 + 13, abs=2)  # the middle of a line of 26 px
    heights = title[3] - title[1], subtitle[3] - subtitle[1]
    assert heights[0] == pytest.approx(1.5 * heights[1], abs=2)


def test_the_band_ends_with_a_line_and_every_cell_has_a_frame_even_without_a_picture(red: Path) -> None:
    plan = large()
    made = paint(plan, {(0, 0, 0): red, (1, 0, 1): red})
    rule, band, paper = (Image.new("RGB", (1, 1), colour).getpixel((0, 0)) for colour in (RULE, BAND, PAPER))
    right = plan.full[0] - 1
    assert [made.getpixel((right, y)) for y in (0, plan.head - 2, plan.head - 1, plan.head)] == [
        band,
        band,
        rule,
        paper,
    ]
    for position in ((0, 0, 0), (1, 0, 1)):
        left, top = plan.cell(*position)
        pixels = np.asarray(made)
        frame = [pixels[top - 1, left - 1 : left + 181], pixels[top + 180, left - 1 : left + 181]]
        frame += [pixels[top - 1 : top + 181, left - 1], pixels[top - 1 : top + 181, left + 180]]
        assert all((side == rule).all() for side in frame)
        inside = pixels[top : top + 180, left : left + 180]
        assert (inside == RED).all()


def test_titles_of_columns_are_centred_just_above_their_cells_and_the_best_is_underlined() -> None:
    plan = large()
    made = paint(plan, {})
    left, top = plan.cell(0, 0, 0)
    foot = top - 10  # half a letter above the cells
    letters = ink(made, (left, top - 36, left + 180, foot - 1))
    assert (letters[0] + letters[2]) / 2 == pytest.approx(left + 90, abs=2)
    assert (letters[1] + letters[3]) / 2 == pytest.approx(foot - 13, abs=2)
    under = ink(made, (left, foot - 1, left + 180, top - 2))
    assert (under[1], under[3]) == (foot, foot + 2)
    assert (under[0], under[2]) == (pytest.approx(letters[0], abs=3), pytest.approx(letters[2], abs=3))
    left, top = plan.cell(1, 0, 0)
    other = ink(made, (left, top - 36, left + 180, top - 2))
    assert other[3] < foot  # nothing is drawn under it
    assert other[2] - other[0] > letters[2] - letters[0]


def test_titles_of_rows_stand_at_the_left_beside_the_middle_of_their_cells_and_blocks_have_theirs_above() -> None:
    plan = large()
    made = paint(plan, {})
    left, top = plan.block(1)
    middle = plan.cell(0, 0, 1)[1] + 90
    letters = ink(made, (left, middle - 90, left + plan.gutter, middle + 12))
    assert letters[0] == pytest.approx(left, abs=3)
    assert (letters[1] + letters[3]) / 2 == pytest.approx(middle, abs=2)
    under = ink(made, (left, middle + 12, left + plan.gutter, middle + 90))
    assert (under[1], under[3]) == (middle + 13, middle + 15)
    assert (under[0], under[2]) == (pytest.approx(letters[0], abs=3), pytest.approx(letters[2], abs=3))
    block = ink(made, (left, top, left + 180, top + 28))
    assert block[0] == pytest.approx(left, abs=3)
    assert (block[1] + block[3]) / 2 == pytest.approx(top + 13, abs=2)


@pytest.mark.parametrize("quiet", [True, False])
def test_titles_of_columns_rows_and_blocks_are_grey_if_they_are_quiet_and_black_otherwise(quiet: bool) -> None:
    label = [Label("HHHH", quiet=quiet)]
    plan = Layout(Sheet("lora", "what", label, label, label, (180, 180)))
    made = paint(plan, {})
    block, cell = plan.block(0), plan.cell(0, 0, 0)
    parts = [
        (block[0], block[1], block[0] + 180, block[1] + 28),
        (cell[0], cell[1] - 36, cell[0] + 180, cell[1] - 2),
        (block[0], cell[1], block[0] + plan.gutter, cell[1] + 180),
    ]
    darkest = [int(np.asarray(made.crop(part).convert("L")).min()) for part in parts]
    assert darkest == [0x76 if quiet else 0x11] * 3
