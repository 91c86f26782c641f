import random

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from etude.images.crop import Box, crop_box
from etude.images.focus import focal_point
from tests.etude.images.portraits import Face, Portrait, cuts, parts, share


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


@pytest.mark.parametrize(("at", "middle"), [(80, 119), (200, 201), (310, 277)])
def test_a_subject_that_a_window_shows_whole_is_followed_without_a_pull_upwards(at: int, middle: float) -> None:
    image = Image.new("RGB", (200, 400), "white")
    ImageDraw.Draw(image).ellipse((60, at - 40, 140, at + 40), fill=(90, 60, 200))
    assert focal_point(image, (64, 64)) == pytest.approx((100, middle), abs=4)


def person(middle: int) -> Image.Image:
    """An upright picture of a face, its middle at that height, over a suit that has more edges."""
    image = Image.new("RGB", (256, 512), (200, 205, 210))
    draw, dice = ImageDraw.Draw(image), random.Random(5)
    draw.ellipse((80, middle - 60, 176, middle + 60), fill=(220, 180, 150))
    for left in range(76, 180, 5):  # hair
        draw.line((left, middle - 64, left + 3, middle - 40), fill=(60, 40, 30), width=2)
    for left in (100, 140):  # eyes
        draw.ellipse((left, middle - 20, left + 18, middle - 8), fill=(40, 40, 60), outline=(255, 255, 255))
    draw.line((105, middle + 30, 150, middle + 30), fill=(150, 40, 40), width=6)
    for top in range(middle + 80, 512, 36):
        for left in range(30, 226, 36):
            draw.rectangle((left, top, left + 24, top + 24), fill=tuple(dice.randrange(256) for _ in "rgb"))
    return image


@pytest.mark.parametrize("middle", [120, 140, 170])
def test_a_face_is_kept_over_a_suit_that_has_more_edges(middle: int) -> None:
    image, face = person(middle), (80, middle - 60, 176, middle + 60)
    kept = share(crop_box(image.size, (64, 64), focal_point(image, (64, 64))), [face])
    assert kept >= max(share(crop_box(image.size, (64, 64)), [face]), 0.9)


@pytest.mark.parametrize(("portrait", "part"), cuts())
def test_a_portrait_keeps_as_much_of_its_faces_as_in_the_middle(portrait: Portrait, part: Face | None) -> None:
    image, faces = parts(portrait, part)
    kept = share(crop_box(image.size, (64, 64), focal_point(image, (64, 64))), faces)
    assert kept >= share(crop_box(image.size, (64, 64)), faces)


@pytest.mark.parametrize("size", [(900, 300), (300, 900)])
@pytest.mark.parametrize("at", [30, 200, 500, 800])
def test_known_faces_come_before_every_edge(size: tuple[int, int], at: int) -> None:
    image = scene(size, (840, 150) if size[0] > size[1] else (150, 840))
    face: Box = (at, 100, at + 80, 180) if size[0] > size[1] else (100, at, 180, at + 80)
    assert share(crop_box(size, (64, 64), focal_point(image, (64, 64), [face])), [face]) == pytest.approx(1)


def test_of_faces_that_do_not_fit_into_one_crop_the_larger_is_kept() -> None:
    image = Image.new("RGB", (300, 900), (128, 128, 128))
    small, large = (100, 20, 160, 80), (80, 700, 220, 840)
    box = crop_box(image.size, (64, 64), focal_point(image, (64, 64), [small, large]))
    assert (share(box, [small]), share(box, [large])) == (0, 1)


def test_hair_and_chin_are_kept_with_a_face_where_there_is_room() -> None:
    image = Image.new("RGB", (300, 900), (128, 128, 128))
    _, top, _, bottom = crop_box(image.size, (64, 64), focal_point(image, (64, 64), [(100, 400, 200, 500)]))
    assert top <= 352
    assert bottom >= 518


def test_a_face_larger_than_the_crop_fills_it() -> None:
    image = Image.new("RGB", (300, 900), (128, 128, 128))
    _, top, _, bottom = crop_box(image.size, (64, 64), focal_point(image, (64, 64), [(0, 350, 300, 800)]))
    assert 348 <= top <= bottom <= 802


def clutter(size: tuple[int, int], seed: int) -> Image.Image:
    """Rectangles of many sizes and colours."""
    image, dice = Image.new("RGB", size, (90, 120, 150)), random.Random(seed)
    draw = ImageDraw.Draw(image)
    for _ in range(40):
        x, y, width = dice.randrange(size[0]), dice.randrange(size[1]), dice.randrange(4, 60)
        colour = tuple(dice.randrange(60, 200) for _ in "rgb")
        draw.rectangle((x, y, x + width, y + dice.randrange(4, 60)), fill=colour)
    return image


@pytest.mark.parametrize(
    ("size", "seed", "faces", "focus"),
    [
        ((700, 300), 1, [], (213.28, 150)),
        ((300, 701), 2, [], (150, 186.2)),
        ((501, 260), 3, [], (213.32, 130)),
        ((260, 900), 4, [], (130, 175.78)),
        ((400, 230), 7, [], (175, 115)),
        ((240, 410), 8, [], (120, 139.34)),
        ((300, 400), 11, [(80, 0, 160, 40), (90, 330, 200, 399)], (150, 287.5)),
        ((900, 300), 6, [(100, 50, 180, 250), (640, 80, 860, 120)], (284.77, 150)),
        ((900, 300), 6, [(100, 50, 300, 120), (640, 40, 700, 280)], (597.66, 150)),
        ((300, 900), 5, [(60, 100, 260, 150), (150, 620, 190, 860)], (150, 179.3)),
        ((300, 900), 5, [(60, 100, 100, 290), (50, 620, 290, 700)], (150, 608.2)),
        ((300, 900), 9, [(100, 420, 160, 500)], (150, 407.81)),
        ((800, 300), 10, [(10, 50, 400, 250)], (203.12, 150)),
        ((300, 901), 12, [(100, 380, 160, 560)], (150, 485.7)),
    ],
)
def test_a_picture_keeps_its_focus_in_every_version_because_another_one_would_cut_all_sets_anew(
    size: tuple[int, int], seed: int, faces: list[Box], focus: tuple[float, float]
) -> None:
    assert focal_point(clutter(size, seed), (64, 48), faces) == pytest.approx(focus, abs=0.01)
