import random
from math import ceil

import numpy as np
import pytest
from PIL import Image

from etude.images.crop import (
    bucket_sizes,
    crop_box,
    cut,
    fitted,
    nearest_size,
    pad,
    scaled,
    smaller_box,
    split_boxes,
)

SIZES = [(1, 1), (1, 5000), (5000, 1), (64, 64), (65, 64), (63, 64), (4000, 3000), (3000, 4001), (97, 1009)]
TARGETS = [(64, 64), (96, 40), (40, 96)]


def test_a_box_is_scaled_with_its_picture() -> None:
    assert scaled((1, 2, 3, 4), 2, 5) == (2, 10, 6, 20)
    assert [fitted(size, 10) for size in ((40, 20), (20, 40), (1000, 1), (1, 1000))] == [
        (10, 5),
        (5, 10),
        (10, 1),
        (1, 10),
    ]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", TARGETS)
def test_a_crop_box_has_the_targets_shape_lies_inside_and_touches_two_sides(
    size: tuple[int, int], target: tuple[int, int]
) -> None:
    dice = random.Random(str((size, target)))
    points = [None, (0, 0), size, (-9, 1e6), *((dice.random() * size[0], dice.random() * size[1]) for _ in range(20))]
    for focus in points:
        left, top, right, bottom = crop_box(size, target, focus)
        assert 0 <= left < right <= size[0] + 1e-9
        assert 0 <= top < bottom <= size[1] + 1e-9
        assert (right - left) * target[1] == pytest.approx((bottom - top) * target[0])
        assert right - left == pytest.approx(size[0]) or bottom - top == pytest.approx(size[1])


def test_a_crop_box_never_leaves_the_picture_by_the_last_bit_of_a_product() -> None:
    for width in range(1, 400):
        left, top, right, bottom = crop_box((width, 300), (152, 104))
        assert min(left, top) >= 0
        assert right <= width
        assert bottom <= 300
    assert cut(Image.new("RGB", (393, 300)), crop_box((393, 300), (152, 104)), (152, 104)).size == (152, 104)


def test_without_a_focus_the_box_is_in_the_middle_and_with_one_around_it() -> None:
    assert crop_box((400, 300), (64, 64)) == (50, 0, 350, 300)
    assert crop_box((400, 300), (64, 64), (160, 7)) == (10, 0, 310, 300)
    assert crop_box((400, 300), (64, 64), (399, 299)) == (100, 0, 400, 300)
    assert crop_box((300, 400), (64, 64), (0, 0)) == (0, 0, 300, 300)


def a1111_starts(size: tuple[int, int], target: tuple[int, int], overlap: float) -> list[int]:
    """The rule of "split oversized images" as its description states it, on the picture scaled first."""
    (from_w, from_h), (to_w, to_h) = size, target
    if from_h > from_w:
        long, side = from_h * to_w // from_w, to_h
    else:
        long, side = from_w * to_h // from_h, to_w
    count = ceil((long - side * overlap) / (side * (1 - overlap)))
    return [int((long - side) / (count - 1) * i) for i in range(count)]


@pytest.mark.parametrize("size", [(400, 1000), (1000, 400), (512, 4096), (700, 300), (333, 999)])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.6])
def test_an_oversized_picture_is_split_where_a1111_splits_it(size: tuple[int, int], overlap: float) -> None:
    starts = a1111_starts(size, (128, 128), overlap)
    boxes = split_boxes(size, (128, 128), 0.5, overlap)
    scale = 128 / min(size)
    axis = 1 if size[1] > size[0] else 0
    assert [round(box[axis] * scale) for box in boxes] == starts
    for box in boxes:
        assert box[1 - axis] == 0
        assert box[3 - axis] == min(size)
        assert (box[axis + 2] - box[axis]) * scale == pytest.approx(128, abs=1.5)
    assert boxes[-1][axis + 2] == pytest.approx(max(size), abs=2 / scale)


@pytest.mark.parametrize("target", [(128, 96), (96, 128)])
@pytest.mark.parametrize("size", [(400, 1000), (1000, 400)])
def test_a_picture_is_split_into_parts_of_a_shape_that_is_not_square(
    size: tuple[int, int], target: tuple[int, int]
) -> None:
    boxes = split_boxes(size, target, 0.9, 0.25)
    axis = 1 if size[1] > size[0] else 0
    scale = target[1 - axis] / size[1 - axis]
    assert [round(box[axis] * scale) for box in boxes] == a1111_starts(size, target, 0.25)
    for box in boxes:
        assert (box[1 - axis], box[3 - axis]) == (0, size[1 - axis])
        assert (box[2] - box[0]) / (box[3] - box[1]) == pytest.approx(target[0] / target[1], rel=0.01)
        assert box[axis + 2] <= size[axis]


def test_only_pictures_whose_shape_is_far_enough_off_are_split() -> None:
    assert split_boxes((100, 100), (64, 64), 0.99, 0.2) == []
    assert split_boxes((100, 199), (64, 64), 0.5, 0.2) == []
    assert len(split_boxes((100, 200), (64, 64), 0.5, 0.2)) == 3
    assert len(split_boxes((1000, 1001), (64, 64), 0.9999, 0.2)) == 2


@pytest.mark.parametrize(("resolution", "step"), [(512, 64), (128, 8), (768, 64), (128, 64)])
def test_buckets_hold_no_more_pixels_than_the_square_and_come_in_both_directions(resolution: int, step: int) -> None:
    sizes = bucket_sizes(resolution, step)
    assert (resolution, resolution) in sizes
    for w, h in sizes:
        assert w % step == h % step == 0
        assert w * h <= resolution**2
        assert resolution / 2 <= min(w, h)
        assert max(w, h) <= resolution * 2
        assert (h, w) in sizes


def test_buckets_of_512_and_64_px_are_those_of_kohyas_scripts() -> None:
    """As these print them for ``--resolution 512`` with their own limits of 256 and 1024 px."""
    tall = [(256, 832), (256, 896), (256, 960), (256, 1024), (320, 704), (320, 768), (384, 640), (448, 576)]
    assert bucket_sizes(512, 64) == sorted([*tall, (512, 512), *((h, w) for w, h in tall)])


def test_a_picture_goes_to_the_bucket_of_its_shape() -> None:
    sizes = bucket_sizes(512, 64)
    assert nearest_size((3000, 3000), sizes) == (512, 512)
    assert nearest_size((6000, 4000), sizes) == (640, 384)
    assert nearest_size((4000, 6000), sizes) == (384, 640)
    assert nearest_size((10, 9000), sizes) == (256, 1024)


def test_of_buckets_of_one_shape_the_largest_is_taken() -> None:
    assert nearest_size((50, 50), [(64, 64), (128, 128), (32, 32)]) == (128, 128)
    assert nearest_size((20, 10), [(128, 64), (256, 128), (64, 128)]) == (256, 128)


def test_a_smaller_box_has_the_same_shape_lies_inside_and_loses_at_most_its_share() -> None:
    dice, boxes = random.Random(1), []
    for _ in range(500):
        left, top, right, bottom = smaller_box((10.0, 20.0, 110.0, 60.0), 0.25, dice)
        assert 10 <= left < right <= 110
        assert 20 <= top < bottom <= 60
        assert (right - left) / 100 == pytest.approx((bottom - top) / 40)
        boxes.append((right - left, (left - 10) / (100 - right + left), (top - 20) / (40 - bottom + top)))
    widths, across, down = zip(*boxes, strict=True)
    assert 75 <= min(widths) < 76 < 99 < max(widths) <= 100
    for shares in (across, down):  # anywhere from one side to the other
        assert 0 <= min(shares) < 0.05 < 0.95 < max(shares) <= 1
    assert smaller_box((10.0, 20.0, 110.0, 60.0), 0.0, dice) == (10, 20, 110, 60)


def test_a_cut_is_the_boxed_part_and_padding_keeps_the_whole() -> None:
    image = Image.new("RGB", (300, 100), (255, 0, 0))
    image.paste((0, 0, 255), (100, 0, 200, 100))
    middle = np.asarray(cut(image, (100, 0, 200, 100), (32, 32)))
    assert (middle[:, 4:-4] == (0, 0, 255)).all()  # nearer to its edge, Lanczos sees what lies beyond the box
    padded = np.asarray(pad(image, (30, 30), (9, 8, 7)))
    assert (padded[:10] == (9, 8, 7)).all()
    assert (padded[20:] == (9, 8, 7)).all()
    assert tuple(padded[15, 2]) == (255, 0, 0)
    assert tuple(padded[15, 15]) == (0, 0, 255)
    assert pad(Image.new("RGB", (5000, 1)), (30, 30), (0, 0, 0)).size == (30, 30)
    thin = np.asarray(pad(Image.new("RGB", (1, 5000), (255, 255, 255)), (30, 20), (0, 0, 0)))
    assert np.flatnonzero(thin[10].any(axis=1)).tolist() == [14]
