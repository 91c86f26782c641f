"""Pixels of any mode as eight bits: scaled to the nearest value, or refused where white is not known."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from etude.core.colours import flatten, opacity, refuse_dark
from etude.core.errors import UnusableError

BLUE = (10, 20, 200)


def grey(values: np.ndarray, white: int = 65535) -> np.ndarray:
    found = np.asarray(flatten(Image.fromarray(values.astype(np.uint16)), BLUE, white))
    assert (found[..., :1] == found).all()
    return found[..., 0]


def test_each_grey_of_sixteen_bits_becomes_the_nearest_of_eight() -> None:
    values = np.arange(65536).reshape(256, 256)
    assert np.array_equal(grey(values), np.rint(values / 257))


@pytest.mark.parametrize("white", [1023, 4095])
def test_each_grey_up_to_another_white_becomes_the_nearest_of_eight(white: int) -> None:
    values = np.arange(white + 1)[None]
    expected = np.floor(values * 255 / white + 0.5)
    assert np.abs(grey(values, white) - expected).max() == 0
    with pytest.raises(UnusableError, match=f"values outside 0 … {white}"):
        grey(values + 1, white)


def test_grey_and_colours_of_sixteen_bits_that_use_twelve_are_refused() -> None:
    assert grey(np.array([[0, 4096]])).tolist() == [[0, 16]]
    assert grey(np.array([[0, 0]])).tolist() == [[0, 0]]
    with pytest.raises(UnusableError, match="its 16-bit grey ends at 4095 of 65535: they seem to be of fewer bits"):
        grey(np.array([[0, 4095]]))
    for mode, colour in (("RGB", (0, 16, 3)), ("RGBA", (0, 0, 16, 9)), ("RGB", (0, 0, 0)), ("L", 15)):
        refuse_dark(Image.new(mode, (2, 2), colour))
    for mode, colour in (("RGB", (15, 0, 3)), ("RGB", (0, 0, 1)), ("RGBA", (0, 15, 0, 255))):
        with pytest.raises(UnusableError, match="its 16-bit colours end at .* of 255"):
            refuse_dark(Image.new(mode, (2, 2), colour))


def test_transparent_pixels_show_the_background_as_far_as_they_are_transparent() -> None:
    image = Image.new("RGBA", (3, 1), (100, 100, 100, 255))
    assert opacity(image) is None
    image.putpixel((1, 0), (100, 100, 100, 0))
    image.putpixel((2, 0), (100, 100, 100, 51))
    alpha = opacity(image)
    assert alpha is not None
    assert np.asarray(alpha).tolist() == [[255, 0, 51]]
    assert np.asarray(flatten(image, BLUE)).tolist() == [[[100, 100, 100], [*BLUE], [28, 36, 180]]]
    assert opacity(Image.new("RGB", (2, 2))) is None


def test_a_picture_that_shows_nothing_and_one_of_floating_point_numbers_are_refused() -> None:
    assert flatten(Image.new("RGBA", (2, 2), (9, 9, 9, 1)), BLUE).getpixel((0, 0)) == (10, 20, 199)
    for image, said in (
        (Image.new("RGBA", (2, 2), (9, 9, 9, 0)), "every pixel is transparent"),
        (Image.new("F", (2, 2), 0.5), "floating-point numbers"),
        (Image.new("I", (2, 2), -1), "values outside 0"),
    ):
        with pytest.raises(UnusableError, match=said):
            flatten(image, BLUE)
