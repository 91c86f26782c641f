"""Colours that a PNG or AVIF describes by numbers are those that browsers show, or the picture is refused."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from etude.core.described_colours import profile_of_codes, profile_of_png
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


D65 = (0.3127, 0.329)
H273 = {  # code → x and y of green, blue, red and white, in the order of H.273's table 2
    1: (0.3, 0.6, 0.15, 0.06, 0.64, 0.33, *D65),
    4: (0.21, 0.71, 0.14, 0.08, 0.67, 0.33, 0.31, 0.316),
    5: (0.29, 0.6, 0.15, 0.06, 0.64, 0.33, *D65),
    6: (0.31, 0.595, 0.155, 0.07, 0.63, 0.34, *D65),
    7: (0.31, 0.595, 0.155, 0.07, 0.63, 0.34, *D65),
    9: (0.17, 0.797, 0.131, 0.046, 0.708, 0.292, *D65),
    11: (0.265, 0.69, 0.15, 0.06, 0.68, 0.32, 0.314, 0.351),
    12: (0.265, 0.69, 0.15, 0.06, 0.68, 0.32, *D65),
    22: (0.295, 0.605, 0.155, 0.077, 0.63, 0.34, *D65),
}
TO_XYZ = np.array(  # Bradford's cones as XYZ (Lindbloom)
    [[0.9869929, -0.1470543, 0.1599627], [0.4323053, 0.5183603, 0.0492912], [-0.0085287, 0.0400428, 0.9684867]]
)


def tags(profile: bytes) -> dict[bytes, bytes]:
    """The tags of an ICC profile, by its table."""
    found = {}
    for number in range(int.from_bytes(profile[128:132])):
        kind, start, length = struct.unpack_from(">4sII", profile, 132 + 12 * number)
        assert start % 4 == 0
        assert start + length <= len(profile)
        found[kind] = profile[start : start + length]
    return found


def point(tag: bytes) -> np.ndarray:
    kind, reserved, *numbers = struct.unpack(">4sI3i", tag)
    assert (kind, reserved) == (b"XYZ ", 0)
    return np.array(numbers) / 65536


def profile_of(primaries: int, transfer: int) -> bytes:
    profile = profile_of_codes(primaries, transfer)
    assert profile is not None
    return profile


@pytest.mark.parametrize("code", H273)
def test_a_profile_has_the_colours_of_its_code_seen_under_its_white(code: int) -> None:
    found = tags(profile_of(code, 8))
    assert found[b"wtpt"] == b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)  # D50 of the ICC
    columns = {name: point(found[name]) for name in (b"gXYZ", b"bXYZ", b"rXYZ")}
    white = sum(columns.values())
    assert np.allclose(white, point(found[b"wtpt"]), atol=1e-4)
    x, y = H273[code][6:]
    to_cones = np.linalg.inv(TO_XYZ)
    scales = (to_cones @ [x / y, 1, (1 - x - y) / y]) / (to_cones @ white)
    seen = [TO_XYZ @ (scales * (to_cones @ each)) for each in columns.values()]
    chromaticities = [float(value) for each in seen for value in each[:2] / each.sum()]
    assert chromaticities == pytest.approx(H273[code][:6], abs=1e-3)


def test_a_profile_is_one_of_a_display_of_version_4_with_a_name() -> None:
    data = profile_of(12, 13)
    assert data[:4] == struct.pack(">I", len(data))
    assert data[4:12] == b"\0\0\0\0\x04\x30\0\0"
    assert data[12:40] == b"mntrRGB XYZ " + bytes(12) + b"acsp"
    assert data[40:68] == bytes(28)
    assert data[80:128] == bytes(48)
    assert data[68:80] == tags(data)[b"wtpt"][8:]
    opened = ImageCms.ImageCmsProfile(io.BytesIO(data))
    assert ImageCms.getProfileDescription(opened).strip() == "described"
    assert tags(data)[b"desc"][12:28] == struct.pack(">I4sII", 12, b"enUS", 18, 28)
    assert tags(data)[b"rTRC"][:12] == b"para\0\0\0\0\0\3\0\0"
    assert tags(profile_of(12, 8))[b"bTRC"] == b"para\0\0\0\0\0\0\0\0" + struct.pack(">i", 65536)


@pytest.mark.parametrize(
    ("transfer", "exponent"), [(4, 2.2), (5, 2.8), (8, 1), (1, 0), (2, 0), (6, 0), (13, 0), (14, 0), (15, 0)]
)
def test_every_grey_has_the_light_of_its_curve(transfer: int, exponent: float) -> None:
    """An exponent of 0 means the curve of sRGB, which leaves all greys as they are."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(profile_of(12, transfer)))
    greys = np.arange(256, dtype=np.uint8)
    image = Image.fromarray(np.repeat(greys[None, :, None], 3, axis=2))
    converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"))
    light = (greys / 255) ** exponent
    curved = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    expected = curved * 255 if exponent else greys
    assert np.abs(np.asarray(converted)[0] - np.round(expected)[:, None]).max() <= 1


CHROMATICITIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)  # sRGB's, as cHRM has them


def chroma(place: int, more: int) -> dict[bytes, bytes]:
    """The cHRM of sRGB, one of its numbers larger."""
    values = [value + more * (number == place) for number, value in enumerate(CHROMATICITIES)]
    return {b"cHRM": struct.pack(">8I", *values)}


ON_A_LINE = {b"cHRM": struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 33000, 15000, 33000)}
WIDE = {b"cHRM": struct.pack(">8I", 31270, 32900, 73470, 26530, 0, 100000, 10000, 5000)}


@pytest.mark.parametrize(
    ("chunks", "converted"),
    [
        ({}, False),
        (gamma(0.1), True),
        (gamma(0.09999), False),
        (gamma(10), True),
        (gamma(10.00001), False),
        (gamma(0.45), False),  # as near to sRGB as makes no difference
        (gamma(0.4594), False),
        (gamma(0.449), True),
        (gamma(0.46), True),
        (gamma(1) | {b"iCCP": b"x"}, False),
        (gamma(1) | {b"cICP": b"\1\15\0"}, True),
        ({b"gAMA": USUAL[:3]}, False),
        ({b"cHRM": bytes(31)}, False),
        *((chroma(place, 450), False) for place in range(8)),
        *((chroma(place, 600), True) for place in range(8)),
        (ON_A_LINE, False),
        (WIDE, True),
    ],
    ids=str,
)
def test_a_png_is_converted_if_its_numbers_have_a_meaning_that_is_not_that_of_srgb(
    chunks: dict[bytes, bytes], converted: bool
) -> None:
    assert (profile_of_png(chunks) is not None) == converted
