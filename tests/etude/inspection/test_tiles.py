"""Thumbnails of pictures that are marked with what their crops show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from etude.core.errors import InputError
from etude.inspection.tiles import draw_tile, group_entries, share_kept

GREY = (200, 100, 50)
GREEN, ORANGE = (0, 160, 64), (255, 176, 0)


def entry(*crop: int, **facts: Any) -> dict[str, Any]:
    return {"crop": list(crop), "source_size": [160, 80], "sources": ["a.png"], **facts}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Image.new("RGB", (160, 80), GREY).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_a_crop_stays_bright_in_a_green_frame_and_the_rest_keeps_three_tenths_of_its_brightness(path: Path) -> None:
    tile = draw_tile(path, [entry(40, 0, 120, 80)], "pets", 80)
    assert tile.size == (80, 40)
    row = [tile.getpixel((x, 20)) for x in range(80)]
    dark = (60, 30, 15)
    assert row == [dark] * 20 + [GREEN] * 2 + [GREY] * 36 + [GREEN] * 2 + [dark] * 20


def test_a_picture_that_is_used_whole_has_no_frame(path: Path) -> None:
    tile = draw_tile(path, [entry(0, 0, 160, 80)], "pets", 80)
    assert tile.getcolors() == [(80 * 40, GREY)]


def test_faces_have_a_thin_orange_frame(path: Path) -> None:
    tile = draw_tile(path, [entry(0, 0, 160, 80, faces=[[20, 20, 60, 60]])], "pets", 80)
    row = [tile.getpixel((x, 20)) for x in range(80)]
    assert row == [GREY] * 10 + [ORANGE] + [GREY] * 19 + [ORANGE] + [GREY] * 49


def test_the_crops_of_a_split_picture_are_all_bright_and_each_has_a_frame(path: Path) -> None:
    tile = draw_tile(path, [entry(0, 0, 60, 80), entry(100, 0, 160, 80)], "pets", 80)
    row = [tile.getpixel((x, 20)) for x in range(80)]
    crop = [GREEN] * 2 + [GREY] * 26 + [GREEN] * 2
    assert row == crop + [(60, 30, 15)] * 20 + crop


def test_a_crop_thinner_than_a_pixel_of_the_tile_is_a_line(path: Path) -> None:
    tile = draw_tile(path, [entry(80, 0, 81, 80)], "pets", 80)
    assert tile.getpixel((40, 20)) == GREEN


def test_a_picture_of_another_size_than_the_one_that_was_cut_is_refused(path: Path) -> None:
    with pytest.raises(InputError, match=r"has changed since it was cut. Next: run `dvc repro prepare@pets`"):
        draw_tile(path, [entry(0, 0, 80, 80, source_size=[160, 81])], "pets", 80)


def test_the_share_of_a_picture_that_its_crops_show_is_the_sum_of_their_areas() -> None:
    assert share_kept([entry(40, 0, 120, 80)]) == 0.5
    assert share_kept([entry(10, 20, 90, 60), entry(100, 0, 160, 80)]) == (80 * 40 + 60 * 80) / (160 * 80)


def test_copies_are_no_training_pictures_of_their_own() -> None:
    own, other = entry(0, 0, 80, 80), entry(80, 0, 160, 80)
    listing = {"images": {"1": own, "2": other, "3": entry(0, 0, 80, 80, of="1")}}
    assert group_entries(listing) == {"a.png": {"1": own, "2": other}}
