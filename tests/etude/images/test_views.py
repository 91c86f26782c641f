"""Views of a picture: where they lie, what counts of them, and that they are the same every time."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from PIL import Image

from etude.core.params import read_yaml
from etude.images.views import GREY, LEAST, Placing, counted, place, view
from etude.training.augmentation import Augmentation
from tests.shipped import held

ASKED = Augmentation(**read_yaml(held("pipelines/custom_diffusion/params.yaml"))["augmentation"])


@pytest.mark.parametrize("size", [(128, 128), (64, 64), (160, 96)])
def test_views_keep_to_their_sizes_and_only_cells_wholly_inside_count(size: tuple[int, int]) -> None:
    chance, side = Random(0), min(size)
    placings = [place(size, ASKED, chance) for _ in range(300)]
    for placing in placings:
        scale = min(placing.width, placing.height)
        assert max(LEAST, int(side * ASKED.smallest)) <= scale <= side or 1.2 * side - 1 <= scale <= 1.4 * side
        assert placing.width / placing.height == pytest.approx(size[0] / size[1], rel=0.05)
        assert placing.kind == ("far" if scale < 0.6 * side else "near" if scale > side else "whole")
        columns, rows = counted(size, placing)
        assert len(columns) > 0
        assert len(rows) > 0
        if placing.kind == "near":
            assert (len(columns), len(rows)) == (size[0] // 8, size[1] // 8)
            continue
        assert placing.left + placing.width <= size[0]
        assert placing.top + placing.height <= size[1]
        assert placing.left <= 8 * columns.start
        assert 8 * columns.stop <= placing.left + placing.width
        assert placing.top <= 8 * rows.start
        assert 8 * rows.stop <= placing.top + placing.height
    share = sum(placing.kind != "near" for placing in placings) / len(placings)
    assert share == pytest.approx(ASKED.smaller, abs=0.08)
    assert placings[:5] == [place(size, ASKED, chance) for chance in [Random(0)] for _ in range(5)]


@pytest.mark.parametrize(
    ("placing", "columns", "rows"),
    [
        (Placing(40, 40, 10, 17, "far"), range(2, 5), range(3, 6)),  # cells 2 to 5 and 3 to 6 are inside, less a border
        (Placing(64, 64, 0, 0, "whole"), range(1, 7), range(1, 7)),
        (Placing(80, 80, 9, 4, "near"), range(8), range(8)),
    ],
)
def test_of_a_smaller_view_a_border_of_one_cell_does_not_count(placing: Placing, columns: range, rows: range) -> None:
    assert counted((64, 64), placing) == (columns, rows)


def test_a_small_view_stands_on_grey_and_a_large_one_is_cut() -> None:
    red = Image.new("RGB", (128, 128), (255, 0, 0))
    chance = Random(1)
    placings = [place(red.size, ASKED, chance) for _ in range(20)]
    small = next(placing for placing in placings if placing.kind == "far")
    pixels = np.asarray(view(red, small))
    inside = np.zeros((128, 128), bool)
    inside[small.top : small.top + small.height, small.left : small.left + small.width] = True
    assert (pixels[inside] == (255, 0, 0)).all()
    assert (pixels[~inside] == GREY).all()
    gradient = Image.fromarray(np.tile(np.arange(128, dtype=np.uint8)[None, :, None], (128, 1, 3)))
    near = next(placing for placing in placings if placing.kind == "near")
    cut = np.asarray(view(gradient, near))[:, :, 0].astype(int)
    assert cut.shape == (128, 128)
    assert cut[64, 0] == pytest.approx(near.left * 128 / near.width, abs=2)
    assert cut[64, 127] - cut[64, 0] == pytest.approx(127 * 128 / near.width, abs=3)
