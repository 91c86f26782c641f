from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from etude.inspection.findings import BLURRED, NEARLY_PLAIN
from etude.inspection.sharpness import WINDOW, blur_of, contrast_of

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def drawings() -> list[Image.Image]:
    files = sorted((ROOT / "data/samples/style").glob("*.*g"))
    return [Image.open(file).convert("RGB").resize((128, 128)) for file in files]


def test_sharp_drawings_are_not_called_blurred_and_the_same_ones_blurred_are(drawings: list[Image.Image]) -> None:
    assert len(drawings) > 30
    assert max(map(blur_of, drawings)) < BLURRED
    blurred = [blur_of(drawing.filter(ImageFilter.GaussianBlur(3))) for drawing in drawings]
    assert min(blurred) > BLURRED


def test_a_picture_that_moved_while_it_was_taken_is_blurred_in_one_direction(drawings: list[Image.Image]) -> None:
    pixels = np.asarray(drawings[0])
    moved = np.mean([np.roll(pixels, step, axis=1) for step in range(20)], axis=0).astype(np.uint8)
    assert blur_of(Image.fromarray(moved)) > BLURRED


def test_a_picture_of_one_colour_has_no_contrast_and_is_not_called_blurred() -> None:
    plain = Image.new("RGB", (64, 64), (40, 80, 90))
    assert contrast_of(plain) == blur_of(plain) == 0
    red = Image.merge("RGB", [Image.effect_noise((64, 64), 90), Image.new("L", (64, 64)), Image.new("L", (64, 64))])
    assert contrast_of(red) > NEARLY_PLAIN
    assert blur_of(Image.new("RGB", (WINDOW, 2))) == 0


def test_blur_is_the_share_of_a_rows_differences_that_an_average_of_nine_pixels_leaves() -> None:
    edge = np.zeros((1, 20), np.uint8)
    edge[0, 10:] = 180
    # of the step of 180, the average of nine pixels leaves a ninth at the place of the step: 1/9
    assert blur_of(Image.fromarray(edge).convert("RGB")) == pytest.approx(1 / 9)
    ramp = np.tile(np.arange(0, 200, 10, dtype=np.uint8), (1, 1))
    assert blur_of(Image.fromarray(ramp).convert("RGB")) == 1
    both = np.zeros((20, 20), np.uint8)
    both[:, 10:] = 100
    both += np.arange(0, 100, 5, dtype=np.uint8)[:, None]
    assert blur_of(Image.fromarray(both).convert("RGB")) == 1  # smooth from top to bottom


def test_a_picture_as_small_as_the_average_is_not_called_blurred_and_one_pixel_more_is_measured() -> None:
    def ramp(width: int) -> Image.Image:
        return Image.fromarray(np.arange(0, 10 * width, 10, dtype=np.uint8)[None]).convert("RGB")

    assert (blur_of(ramp(9)), blur_of(ramp(10))) == (0, 1)


def test_contrast_is_the_standard_deviation_of_the_channel_that_varies_most() -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0] = (40, 100, 6)
    assert contrast_of(Image.fromarray(pixels)) == 50
