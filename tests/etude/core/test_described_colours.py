"""Colours that a PNG or AVIF describes by numbers are those that browsers show, or the picture is refused."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from etude.core.described_colours import profile_of_codes
from etude.core.errors import InputError
from etude.images.decode import PROFILE, fault_of, read_picture
from etude.rendering.pixels import open_picture
from tests.etude.core.test_pictures import chunk

WHITE = (255, 255, 255)
GREEN = (90, 200, 40)
LINEAR = (160, 229, 110)  # of values that are light: the sRGB curve of 90 / 255, …
P3 = (0, 203, 0)  # Display P3's GREEN, cut to the gamut of sRGB (CSS Color 4: color(display-p3 …) to rgb)
REC2020 = (0, 210, 0)
USUAL = struct.pack(">I", 45455)
SWAPPED = struct.pack(">8I", 31270, 32900, 30000, 60000, 64000, 33000, 15000, 6000)  # red is green, green is red


def png(path: Path, mode: str, chunks: dict[bytes, bytes]) -> Path:
    buffer = io.BytesIO()
    Image.new(mode, (4, 4), GREEN if mode == "RGB" else 128 if mode == "L" else 32768).save(buffer, "PNG")
    added = b"".join(chunk(kind, data) for kind, data in chunks.items())
    place = 8 + 25  # behind the signature and IHDR
    path.write_bytes(buffer.getvalue()[:place] + added + buffer.getvalue()[place:])
    return path


def codes(primaries: int, transfer: int, matrix: int = 0, full: int = 1) -> dict[bytes, bytes]:
    return {b"cICP": bytes([primaries, transfer, matrix, full])}


def gamma(inverse: float) -> dict[bytes, bytes]:
    return {b"gAMA": struct.pack(">I", round(inverse * 100_000))}


@pytest.mark.parametrize(
    ("chunks", "colour"),
    [
        (codes(1, 13), GREEN),
        (codes(1, 1), GREEN),  # BT.709, whose curve browsers take for that of sRGB
        (codes(2, 2), GREEN),
        (codes(12, 13), P3),
        (codes(9, 1), REC2020),
        (codes(1, 8), LINEAR),
        (gamma(1), LINEAR),
        (gamma(0.45455), GREEN),
        (gamma(0), GREEN),
        (gamma(0.00001), GREEN),
        ({b"cHRM": b"\xff" * 32}, GREEN),
        ({b"gAMA": USUAL, b"cHRM": SWAPPED}, (200, 90, 40)),
        ({b"gAMA": USUAL, b"cHRM": bytes(32)}, GREEN),
        (gamma(1) | {b"sRGB": b"\0"}, GREEN),
        (gamma(1) | {b"sRGB": b"\0"} | codes(12, 13), P3),
    ],
)
def test_colours_of_a_png_are_those_that_its_chunks_describe(
    tmp_path: Path, chunks: dict[bytes, bytes], colour: tuple[int, int, int]
) -> None:
    picture = read_picture(png(tmp_path / "a.png", "RGB", chunks), WHITE)
    assert np.abs(np.subtract(picture.image.getpixel((1, 1)), colour)).max() <= 1
    assert picture.notes == ()
    assert open_picture(tmp_path / "a.png").getpixel((1, 1)) == picture.image.getpixel((1, 1))


def test_grey_of_another_gamma_is_converted_or_said_to_be_not(tmp_path: Path) -> None:
    assert read_picture(png(tmp_path / "a.png", "L", gamma(1)), WHITE).image.getpixel((1, 1)) == (188, 188, 188)
    assert read_picture(png(tmp_path / "b.png", "I;16", gamma(1)), WHITE).notes == (PROFILE,)


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [(codes(9, 16), "PQ"), (codes(9, 18), "HLG"), (codes(1, 1, full=0), "narrow range"), (codes(1, 200), "200")],
)
def test_colours_that_cannot_be_converted_are_refused(tmp_path: Path, chunks: dict[bytes, bytes], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read_picture(png(tmp_path / "a.png", "RGB", chunks), WHITE)
    with pytest.raises(InputError, match=rf"cannot be read as a picture \((its|is) .*{reason}"):
        open_picture(tmp_path / "a.png")


@pytest.mark.parametrize(("primaries", "transfer"), [(12, 13), (9, 1), (1, 8), (1, 13)])
def test_an_avif_has_the_colours_that_its_codes_describe(tmp_path: Path, primaries: int, transfer: int) -> None:
    Image.new("RGB", (16, 16), GREEN).save(tmp_path / "a.avif", quality=100, subsampling="4:4:4")
    data = bytearray((tmp_path / "a.avif").read_bytes())
    struct.pack_into(">HH", data, data.index(b"colrnclx") + 8, primaries, transfer)
    (tmp_path / "a.avif").write_bytes(data)
    assert fault_of(tmp_path / "a.avif") is None
    expected = {(12, 13): P3, (9, 1): REC2020, (1, 8): LINEAR, (1, 13): GREEN}[primaries, transfer]
    found = read_picture(tmp_path / "a.avif", WHITE).image.getpixel((1, 1))
    assert np.abs(np.subtract(found, expected)).max() <= 3
    assert open_picture(tmp_path / "a.avif").getpixel((1, 1)) == found


@pytest.mark.parametrize(("primaries", "transfer"), [(1, 200), (9, 16), (9, 1)])
def test_the_profile_of_an_avif_comes_before_its_codes(tmp_path: Path, primaries: int, transfer: int) -> None:
    image = Image.new("RGB", (16, 16), GREEN)
    image.save(tmp_path / "a.avif", quality=100, subsampling="4:4:4", icc_profile=profile_of_codes(12, 13))
    data = bytearray((tmp_path / "a.avif").read_bytes())
    struct.pack_into(">HH", data, data.index(b"colrnclx") + 8, primaries, transfer)
    (tmp_path / "a.avif").write_bytes(data)
    assert fault_of(tmp_path / "a.avif") is None
    found = read_picture(tmp_path / "a.avif", WHITE)
    assert np.abs(np.subtract(found.image.getpixel((1, 1)), P3)).max() <= 3
    assert found.notes == ()
    assert open_picture(tmp_path / "a.avif").getpixel((1, 1)) == found.image.getpixel((1, 1))


@pytest.mark.parametrize("chunks", [codes(9, 16), codes(1, 200), codes(1, 1, full=0), codes(9, 1, matrix=9)])
def test_the_profile_of_a_png_is_used_where_its_codes_cannot_be(tmp_path: Path, chunks: dict[bytes, bytes]) -> None:
    Image.new("RGB", (4, 4), GREEN).save(tmp_path / "a.png", icc_profile=profile_of_codes(12, 13))
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:33] + chunk(b"cICP", chunks[b"cICP"]) + data[33:])
    found = read_picture(tmp_path / "a.png", WHITE).image.getpixel((1, 1))
    assert np.abs(np.subtract(found, P3)).max() <= 1
    assert open_picture(tmp_path / "a.png").getpixel((1, 1)) == found


def test_the_codes_of_a_png_come_before_its_profile_also_if_they_say_srgb(tmp_path: Path) -> None:
    profile = profile_of_codes(12, 13)
    Image.new("RGB", (4, 4), GREEN).save(tmp_path / "a.png", icc_profile=profile)
    for read in (lambda: read_picture(tmp_path / "a.png", WHITE).image, lambda: open_picture(tmp_path / "a.png")):
        assert np.abs(np.subtract(read().getpixel((1, 1)), P3)).max() <= 1
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(data[:33] + chunk(b"cICP", bytes([1, 13, 0, 1])) + data[33:])
    assert read_picture(tmp_path / "b.png", WHITE).image.getpixel((1, 1)) == GREEN
    assert open_picture(tmp_path / "b.png").getpixel((1, 1)) == GREEN
