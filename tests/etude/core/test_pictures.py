"""Damaged pixels are an error, never a picture that is partly black."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from etude.core import pictures
from etude.core.errors import InputError
from etude.core.pictures import open_prepared, open_whole

SIZE = (64, 48)


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(1, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8))


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows: bytes, after: bytes = b"") -> bytes:
    """A PNG of SIZE in RGB whose pixel data are ``rows``, every check sum right."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *SIZE, 8, 2, 0, 0, 0))
    return pictures.SIGNATURE + header + chunk(b"IDAT", zlib.compress(rows)) + after + chunk(b"IEND", b"")


def rows(count: int, value: int) -> bytes:
    return (b"\0" + bytes([value]) * 3 * SIZE[0]) * count


def test_each_flipped_bit_of_a_png_is_noticed(tmp_path: Path) -> None:
    whole, dice = encoded(noise()), random.Random(0)
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
        (tmp_path / "a.png").write_bytes(damaged)
        with pytest.raises(OSError):  # noqa: PT011 (of whatever is wrong first)
            open_whole(tmp_path / "a.png")


def test_a_png_is_read_whole_with_its_pixels_and_what_follows_its_end_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(noise()) + b"left by another program")
    assert (np.asarray(open_whole(tmp_path / "a.png")) == np.asarray(noise())).all()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_png_that_is_cut_anywhere_is_damaged(tmp_path: Path, share: float) -> None:
    whole = encoded(noise())
    (tmp_path / "a.png").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(OSError, match="cut|truncated|identify"):
        open_whole(tmp_path / "a.png")


def test_a_png_with_all_check_sums_right_and_too_few_rows_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(rows(SIZE[1] - 1, 9)))
    with pytest.raises(OSError, match="fewer rows of pixels than its height"):
        open_whole(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(png(rows(SIZE[1] - 1, 9) + rows(1, 0)[:-1]))  # one byte is missing
    with pytest.raises(OSError, match="fewer rows of pixels than its height|truncated"):
        open_whole(tmp_path / "a.png")


# The PNG specification's pattern: which pass brings each pixel of a square of eight
ADAM7 = ("16462646", "77777777", "56565656", "77777777", "36463646", "77777777", "56565656", "77777777")


def interlaced(size: tuple[int, int]) -> list[bytes]:
    """The rows of the seven passes, in RGB, each with its filter."""
    found = []
    for number in "1234567":
        for row in range(size[1]):
            columns = sum(ADAM7[row % 8][column % 8] == number for column in range(size[0]))
            found += [b"\0" + b"\x09" * 3 * columns] if columns else []
    return found


@pytest.mark.parametrize(
    "size",
    [(64, 48), (5, 7), (1, 1), (1, 2), (4, 1), (3, 5), (1, 73), (2, 74), (3, 75), (5, 77), (9, 77), (73, 73), (77, 75)],
)
@pytest.mark.parametrize("missing", [0, 1])
def test_an_interlaced_png_with_a_part_of_its_pixels_missing_is_damaged(
    tmp_path: Path, size: tuple[int, int], missing: int
) -> None:
    rows = interlaced(size)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 1))
    shown = chunk(b"IDAT", zlib.compress(b"".join(rows[: len(rows) - missing])))
    (tmp_path / "a.png").write_bytes(pictures.SIGNATURE + header + shown + chunk(b"IEND", b""))
    if missing:
        with pytest.raises(OSError, match="fewer rows of pixels than its height|truncated"):
            open_whole(tmp_path / "a.png")
    else:
        assert open_whole(tmp_path / "a.png").getcolors() == [(size[0] * size[1], (9, 9, 9))]


@pytest.mark.parametrize(
    ("colours", "depth", "bits"),
    [(0, 1, 1), (0, 8, 8), (0, 16, 16), (2, 8, 24), (2, 16, 48), (3, 4, 4), (3, 8, 8), (4, 8, 16), (6, 8, 32)],
)
def test_the_last_byte_of_a_black_png_of_any_kind_of_pixels_must_be_there(
    tmp_path: Path, colours: int, depth: int, bits: int
) -> None:
    rows = (b"\0" + bytes((37 * bits + 7) // 8)) * 5
    for data in (rows, rows[:-1]):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 37, 5, depth, colours, 0, 0, 0)) + chunk(b"PLTE", bytes(48))
        header = header if colours == 3 else header[:25]
        shown = chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
        (tmp_path / "a.png").write_bytes(pictures.SIGNATURE + header + shown)
        if data == rows:
            assert open_whole(tmp_path / "a.png").size == (37, 5)
        else:
            with pytest.raises(OSError, match="fewer rows of pixels than its height|truncated"):
                open_whole(tmp_path / "a.png")


def test_a_png_of_indices_without_a_palette_is_damaged(tmp_path: Path) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 1, 8, 3, 0, 0, 0))
    indices = chunk(b"IDAT", zlib.compress(b"\0" + bytes(range(9)))) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(pictures.SIGNATURE + header + indices)
    with pytest.raises(OSError, match="palette is missing"):
        open_whole(tmp_path / "a.png")
    palette = chunk(b"PLTE", bytes(range(27)))
    (tmp_path / "a.png").write_bytes(pictures.SIGNATURE + header + palette + indices)
    assert open_whole(tmp_path / "a.png").convert("RGB").getpixel((8, 0)) == (24, 25, 26)


def test_a_black_picture_is_whole(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(rows(SIZE[1], 0)))
    assert open_whole(tmp_path / "a.png").getcolors() == [(SIZE[0] * SIZE[1], (0, 0, 0))]
    for mode in ("1", "L", "LA", "P", "RGBA"):
        Image.new(mode, (37, 5)).save(tmp_path / "a.png")
        assert open_whole(tmp_path / "a.png").size == (37, 5)


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_a_black_picture_of_another_format_is_whole(tmp_path: Path, form: str) -> None:
    Image.new("RGB", (37, 5)).save(tmp_path / "a", form)
    assert open_whole(tmp_path / "a", form).size == (37, 5)


def test_a_flipped_bit_of_a_png_inside_an_icon_is_noticed(tmp_path: Path) -> None:
    whole = encoded(noise().resize((256, 256)), "ICO")
    place = whole.index(b"IDAT")
    (tmp_path / "a.ico").write_bytes(whole)
    assert open_whole(tmp_path / "a.ico", "ICO").size == (256, 256)
    damaged = bytearray(whole)
    damaged[place + 2000] ^= 1
    (tmp_path / "a.ico").write_bytes(damaged)
    with pytest.raises(OSError, match="check sum of its 'IDAT' chunk"):
        open_whole(tmp_path / "a.ico", "ICO")


def test_a_progressive_jpeg_of_thousands_of_scans_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    noise().save(buffer, "JPEG", progressive=True)
    whole = buffer.getvalue()
    last = whole.rindex(b"\xff\xda")
    (tmp_path / "a.jpg").write_bytes(whole)
    assert open_whole(tmp_path / "a.jpg", "JPEG").size == SIZE
    (tmp_path / "a.jpg").write_bytes(whole[:last] + whole[last:-2] * pictures.SCANS + whole[-2:])
    with pytest.raises(OSError, match=r"more than \d+ scans"):
        open_whole(tmp_path / "a.jpg", "JPEG")


def test_a_damaged_prepared_picture_is_named_with_what_to_do(tmp_path: Path) -> None:
    damaged = bytearray(encoded(noise()))
    damaged[-20] ^= 8
    (tmp_path / "a.png").write_bytes(damaged)
    for name in ("a.png", "gone.png"):
        with pytest.raises(InputError, match=f"{name}: cannot be read .*run `dvc repro`") as refused:
            open_prepared(tmp_path / name)
        assert "\n" not in str(refused.value)


def test_a_file_of_another_format_than_was_asked_for_is_none(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png", "JPEG")
    with pytest.raises(OSError, match="cannot identify"):
        open_whole(tmp_path / "a.png")
    assert open_whole(tmp_path / "a.png", "JPEG").size == SIZE
