"""Hundreds of damaged files of every format that Pillow writes: each is read with the right pixels, or listed."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from etude.core.errors import InputError
from etude.images.decode import fault_of, read_picture
from tests.etude.core.test_pictures import chunk

WHITE = (255, 255, 255)
SIZE = (72, 56)
EXIF = Image.Exif()
EXIF[0x0131] = "a program"  # of the formats that have EXIF
# Name → Pillow's format and options, and whether check sums reveal every wrong pixel.
WRITERS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "png": ("PNG", {}, True),
    "apng": ("PNG", {"save_all": True, "frames": 3}, True),
    "ico": ("ICO", {}, False),
    "jpeg": ("JPEG", {"quality": 90}, False),
    "progressive": ("JPEG", {"progressive": True, "quality": 80}, False),
    "mpo": ("MPO", {"save_all": True, "frames": 2}, False),
    "webp": ("WEBP", {}, False),
    "lossless": ("WEBP", {"lossless": True, "save_all": True, "frames": 2}, False),
    "gif": ("GIF", {"save_all": True, "frames": 3}, False),
    "bmp": ("BMP", {}, False),
    "tiff": ("TIFF", {}, False),
    "tiff_pages": ("TIFF", {"save_all": True, "frames": 3, "compression": "packbits"}, False),
    "tiff_deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}, False),
    "tiff_lzw": ("TIFF", {"compression": "tiff_lzw"}, False),
    "tiff_jpeg": ("TIFF", {"compression": "jpeg"}, False),
    "tiff_fax": ("TIFF", {"compression": "group4", "mode": "1"}, False),
    "avif": ("AVIF", {}, False),
    "jpeg2000": ("JPEG2000", {}, False),
    "ppm": ("PPM", {}, False),
    "qoi": ("QOI", {}, False),
}


def drawn(seed: int, mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(seed).integers(1, 255, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(SIZE, Image.Resampling.BICUBIC).convert(mode)


def written(form: str, options: dict[str, Any]) -> bytes:
    buffer, options = io.BytesIO(), dict(options)
    mode = options.pop("mode", "RGB")
    pages = [drawn(seed, mode) for seed in range(options.pop("frames", 1))]
    more = {"append_images": pages[1:]} if len(pages) > 1 else {}
    pages[0].save(buffer, form, exif=EXIF, **options, **more)
    return buffer.getvalue()


def damage(whole: bytes, dice: random.Random, case: int) -> bytes:
    """Flipped bits, zeros, foreign bytes, a piece twice or left out; the head is hit more often than its share."""
    data, place = bytearray(whole), dice.randrange(len(whole) if case % 2 else min(len(whole), 200))
    kind, length = case % 6, dice.randrange(1, 40)
    if kind < 2:
        data[place] ^= 1 << dice.randrange(8)
    elif kind == 2:
        data[place : place + length] = bytes(len(data[place : place + length]))
    elif kind == 3:
        data[place : place + length] = dice.randbytes(len(data[place : place + length]))
    elif kind == 4:
        data[place:place] = data[place : place + length]
    else:
        del data[place : place + length]
    return bytes(data)


def read(path: Path, data: bytes) -> NDArray[np.uint8] | None:
    """The pixels, or None where the file is refused in one line that names no path."""
    path.write_bytes(data)
    try:
        image = read_picture(path, WHITE, lambda size: size).image
        assert image.mode == "RGB"
        return np.asarray(image)
    except InputError as error:
        fault = error.fault
    assert fault.isprintable()
    assert str(path.parent) not in fault
    assert len(fault) < 250
    return None


@pytest.mark.parametrize("name", WRITERS)
def test_a_damaged_file_is_read_or_refused_in_one_line_and_nothing_else_happens(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    form, options, checked = WRITERS[name]
    whole, dice = written(form, options), random.Random(name)
    expected, refused = read(tmp_path / "whole", whole), 0
    assert expected is not None
    for case in range(36):
        data = damage(whole, dice, case)
        found = read(tmp_path / "a", data)
        refused += found is None
        if checked and data != whole:
            assert found is None or (found == expected).all(), case
        assert found is None or fault_of(tmp_path / "a") is None
    assert refused or form == "GIF"  # of which any bits mean some picture
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_is_cut_is_refused_or_was_cut_behind_its_pixels(name: str, tmp_path: Path) -> None:
    form, options, _ = WRITERS[name]
    whole, dice = written(form, options), random.Random(name)
    expected = read(tmp_path / "whole", whole)
    for place in [len(whole) - 1, len(whole) - 9, *(dice.randrange(len(whole)) for _ in range(12))]:
        found = read(tmp_path / "a", whole[:place])
        assert found is None or (found == expected).all(), (place, len(whole))


JPEGS: dict[str, dict[str, Any]] = {
    "baseline": {"mode": "RGB"},
    "grey": {"mode": "L"},
    "cmyk": {"mode": "CMYK"},
    "progressive": {"mode": "RGB", "progressive": True},
    "restarts": {"mode": "RGB", "restart_marker_rows": 1},
}


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_that_is_cut_and_then_ended_is_refused(kind: str, tmp_path: Path) -> None:
    whole = written("JPEG", JPEGS[kind])
    expected = read(tmp_path / "whole", whole)
    for share in (0.5, 0.7, 0.9):
        begun = whole[: int(share * len(whole))]
        for cut in (begun + b"\xff\xd9", begun + bytes(len(whole) - len(begun))):
            assert read(tmp_path / "a", cut) is None, share
    for more in (bytes(100), b"\xff" * 9, b"more"):  # behind the end, and before it
        for data in (whole + more, whole[:-2] + more + whole[-2:]):
            found = read(tmp_path / "a", data)
            assert found is not None
            assert np.array_equal(found, expected)


def test_a_jpeg_of_the_extended_form_that_is_cut_is_refused(tmp_path: Path) -> None:
    whole = written("JPEG", JPEGS["baseline"]).replace(b"\xff\xc0", b"\xff\xc1", 1)
    assert read(tmp_path / "a", whole) is not None
    assert read(tmp_path / "a", whole[: len(whole) // 2] + b"\xff\xd9") is None


def test_a_jpeg_that_lacks_pixels_between_two_restarts_is_refused(tmp_path: Path) -> None:
    whole = written("JPEG", JPEGS["restarts"])
    place = whole.index(b"\xff\xd2")
    assert read(tmp_path / "a", whole[: place - 60] + whole[place:]) is None


def test_a_jpeg_of_the_grey_that_libjpeg_fills_in_is_whole(tmp_path: Path) -> None:
    plain = Image.new("RGB", SIZE, (128, 128, 128))
    for number, options in enumerate(JPEGS.values()):
        plain.convert(options["mode"]).save(tmp_path / f"{number}.jpg", **{**options, "mode": None})
        assert read_picture(tmp_path / f"{number}.jpg", WHITE).size == SIZE


@pytest.mark.parametrize("name", ["webp", "lossless", "avif"])
def test_a_file_whose_second_half_was_never_written_is_refused(name: str, tmp_path: Path) -> None:
    whole = written(*WRITERS[name][:2])
    assert read(tmp_path / "a", whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2)) is None


def with_four_colours(form: str, odd: int, **options: Any) -> bytes:
    """A picture in colour 2 of a palette of four, with a pixel in colour ``odd``."""
    image, buffer = Image.new("P", SIZE, 2), io.BytesIO()
    image.putpalette(bytes(range(12)) * (64 if form == "PNG" else 1))  # Pillow cuts the index of a shorter one
    image.putpixel((9, 9), odd)
    image.save(buffer, form, optimize=False, bits=8, **options)
    data = buffer.getvalue()
    if form != "PNG":
        return data
    place = data.index(b"PLTE")
    behind = data[place + 4 + 768 + 4 :]
    return data[: place - 4] + chunk(b"PLTE", data[place + 4 : place + 16]) + behind


@pytest.mark.parametrize("form", ["PNG", "GIF", "BMP"])
def test_a_picture_with_colours_that_its_palette_lacks_is_refused(form: str, tmp_path: Path) -> None:
    assert read(tmp_path / "a", with_four_colours(form, 3)) is not None
    assert read(tmp_path / "b", with_four_colours(form, 200)) is None
    with pytest.raises(InputError, match="colour 200, but its palette has only 4"):
        read_picture(tmp_path / "b", WHITE)


def test_the_transparent_colour_of_a_gif_needs_no_place_in_its_palette(tmp_path: Path) -> None:
    found = read(tmp_path / "a", with_four_colours("GIF", 200, transparency=200))
    assert found is not None
    assert tuple(found[9, 9]) == WHITE
