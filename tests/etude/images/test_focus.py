import random

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from etude.images.crop import crop_box
from etude.images.focus import focal_point


def scene(size: tuple[int, int], subject: tuple[int, int]) -> Image.Image:
    """A soft sky with one detailed disc around ``subject``."""
    image = Image.linear_gradient("L").resize(size).convert("RGB").filter(ImageFilter.GaussianBlur(9))
    draw, dice = ImageDraw.Draw(image), random.Random(3)
    for radius in range(60, 0, -6):
        box = [subject[0] - radius, subject[1] - radius, subject[0] + radius, subject[1] + radius]
        draw.ellipse(box, fill=tuple(dice.randrange(256) for _ in "rgb"))
    return image


@pytest.mark.parametrize("at", [70, 300, 640, 830])
def test_the_crop_follows_the_subject_along_the_long_side(at: int) -> None:
    for size, subject in [((900, 300), (at, 150)), ((300, 900), (150, at))]:
        image = scene(size, subject)
        left, top, right, bottom = crop_box(size, (64, 64), focal_point(image, (64, 64)))
        assert left <= max(subject[0] - 40, 0)
        assert min(subject[0] + 40, size[0]) <= right
        assert top <= max(subject[1] - 40, 0)
        assert min(subject[1] + 40, size[1]) <= bottom


def test_an_empty_picture_has_its_focus_in_the_middle() -> None:
    assert focal_point(Image.new("RGB", (700, 200), (9, 9, 9)), (64, 64)) == (350, 100)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 2), (7, 5)])
def test_a_focus_lies_inside_pictures_of_any_shape(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    x, y = focal_point(Image.fromarray(noise), (64, 48))
    assert 0 <= x <= size[0]
    assert 0 <= y <= size[1]


def test_a_body_is_kept_with_its_more_detailed_head() -> None:
    image = Image.new("RGB", (400, 200), (60, 160, 70))
    draw = ImageDraw.Draw(image)
    draw.ellipse((110, 60, 290, 180), fill=(120, 80, 60))  # the body
    for radius in range(24, 0, -4):  # the head, at its left end
        draw.ellipse((134 - radius, 80 - radius, 134 + radius, 80 + radius), fill=(255 * (radius % 8 == 0),) * 3)
    left, _, right, _ = crop_box(image.size, (64, 64), focal_point(image, (64, 64)))
    assert left <= 106
    assert right >= 290
