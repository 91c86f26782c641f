"""Open picture files so that damaged pixels are an error and never a picture that is partly black.

Pillow does not check the checksums of a PNG's pixels, and reports no error if rows are missing. If EXIF data are read
before the pixels, errors in the pixels are lost. So every reader of pictures first loads all pixels here.
"""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from etude.core.bmp import embedded_profile
from etude.core.boxes import described_profile
from etude.core.described_colours import KEY, comes_first, profile_of_png
from etude.core.errors import InputError, UnusableError
from etude.core.jpeg_data import ends_early

# Exceptions of Pillow's readers for damaged files; the last ones come from bugs that only such files trigger.
DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, RuntimeError, MemoryError, struct.error, zlib.error,
    Image.DecompressionBombError, ArithmeticError, TypeError, AttributeError, AssertionError,
)  # fmt: skip
SIGNATURE = b"\x89PNG\r\n\x1a\n"
LONGEST = 120  # characters of a detail
BLOCK = 1 << 20  # bytes read at once
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # a PNG's colour type → samples of a pixel
# The passes of a PNG: the first column and row, and the steps to the next ones. An interlaced one has seven.
WHOLE = ((0, 0, 1, 1),)
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
SCANS = 500  # limit for a progressive JPEG: each scan reads all pixels, and thousands in a small file take hours

JPEGS = ("JPEG", "MPO")
BOXES = ("AVIF", "HEIF")
CUT = "the file is cut: the end of its picture is missing"
# A download that stopped may have its full length. In these formats, zeros at the end are decoded as pixels.
ENDS_NOT_IN_ZEROS = ("WEBP", "AVIF", "HEIF", "JXL")
ZEROS, SHARE = 64, 16  # the last 64 bytes, or 1/16 of the file if that is more: plain areas end in some zeros

logging.getLogger("PIL").addHandler(logging.NullHandler())  # its log lines repeat the errors, without the file


@cache
def plugins() -> tuple[str, ...]:
    """Pillow's names of the formats of the extra `heic`, if it is installed: HEIF, JXL."""
    found = []
    if find_spec("pillow_heif"):
        import_module("pillow_heif").register_heif_opener()
        found.append("HEIF")
    if find_spec("pillow_jxl"):
        import_module("pillow_jxl")  # it registers itself
        found.append("JXL")
    return tuple(found)


def open_whole(path: Path | str, *formats: str) -> Image.Image:
    """The first frame of a file, all of its pixels loaded; PNG unless ``formats`` names others.

    Raises OSError, in one line, for a file that is damaged, missing or no picture.
    """
    try:
        with Image.open(path, formats=formats or ("PNG",)) as image:
            load_whole(image, Path(path))
            return image
    except FileNotFoundError:
        raise
    except DAMAGE as error:
        raise OSError(describe(error, Path(path))) from error


def open_prepared(path: Path | str) -> Image.Image:
    """A PNG that *prepare* wrote; raises InputError if it is damaged or missing."""
    try:
        return open_whole(path)
    except OSError as error:
        fault = f"cannot be read ({describe(error, Path(path))})"
        raise InputError(path, fault, "delete it and run `dvc repro`; *prepare* writes it") from error


def describe(error: BaseException, path: Path) -> str:
    """The text of an exception for the file ``path``, in one short line."""
    lines = str(error).replace(str(path), path.name).splitlines() or ["no detail"]
    detail = lines[0][:LONGEST]
    return detail if isinstance(error, (OSError, UnusableError)) else f"{type(error).__name__}: {detail}"


def load_whole(image: Image.Image, path: Path) -> None:
    """Load all pixels of an opened picture, before its metadata is read; raises one of DAMAGE.

    If a PNG, AVIF or HEIC describes its colours by numbers, their ICC profile is kept in the picture's `info`. Raises
    UnusableError if these colours cannot be converted.
    """
    described, by_codes = None, False
    data = path.read_bytes() if image.format in JPEGS else b""
    if image.format == "PNG":
        with open(path, "rb") as file:
            chunks = check_png(file)
        try:
            described, by_codes = profile_of_png(chunks), comes_first(chunks)
        except UnusableError:
            if not image.info.get("icc_profile"):
                raise
    elif image.format == "ICO":
        _check_icons(path)
    elif image.info.get("progressive") and data.count(b"\xff\xda") > SCANS:
        raise OSError(f"it has more than {SCANS} scans")
    elif image.format in ENDS_NOT_IN_ZEROS and _ends_in_zeros(path):
        raise OSError(CUT)
    image.load()
    if image.format in BOXES and "icc_profile" not in image.info:
        described = described_profile(path)
    if image.format == "BMP" and (profile := embedded_profile(path)):
        image.info["icc_profile"] = profile
    if described:
        image.info[KEY] = described
    if by_codes:
        image.info.pop("icc_profile", None)
    if data and ends_early(image, data):
        raise OSError(CUT)
    if image.format == "PNG" and image.mode == "P" and not image.palette:
        raise OSError("its palette is missing")
    _check_palette(image)
    if image.format == "PNG" and (image.info.get("interlace") or _is_black(image, image.height - 1)):
        _check_rows(path)


def _ends_in_zeros(path: Path) -> bool:
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(-min(max(ZEROS, size // SHARE), size), 2)
        return not file.read().strip(b"\0")


def check_png(file: BinaryIO) -> dict[bytes, bytes]:
    """The chunks before the pixels of the PNG that begins at the file's position: kind → at most BLOCK bytes.

    Raises OSError if one has a wrong checksum, or if the file ends before IEND.
    """
    head: dict[bytes, bytes] = {}
    for kind, data in _chunks(file):
        if b"IDAT" not in head:
            head.setdefault(kind, data)
    return head


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """The kind of each chunk with its data, in parts of at most BLOCK bytes; raises OSError as `check_png` does."""
    file.seek(len(SIGNATURE), 1)
    kind = b""
    while kind != b"IEND":
        head = file.read(8)
        length, kind = int.from_bytes(head[:4]), head[4:]
        crc = zlib.crc32(kind)
        while length and (data := file.read(min(length, BLOCK))):
            crc, length = zlib.crc32(data, crc), length - len(data)
            yield kind, data
        check = file.read(4)
        if len(check) < 4:
            raise OSError(CUT)
        if int.from_bytes(check) != crc:
            raise OSError(f"the check sum of its {kind.decode('latin-1')!a} chunk is wrong")


def _check_palette(image: Image.Image) -> None:
    """Raise OSError for pixels with colours that the palette lacks: Pillow shows them black."""
    if image.mode not in ("P", "PA") or not image.palette:
        return
    colours = len(image.palette.palette) // len(image.palette.mode)
    counts = image.getchannel("P").histogram() if image.mode == "PA" else image.histogram()
    used = [index for index, count in enumerate(counts) if count and index != image.info.get("transparency")]
    if used and used[-1] >= colours:
        raise OSError(f"its pixels use colour {used[-1]}, but its palette has only {colours}")


def _is_black(image: Image.Image, row: int) -> bool:
    """Whether a row is all zeros: Pillow fills missing rows with zeros."""
    return image.crop((0, row, image.width, row + 1)).getbbox(alpha_only=False) is None


def _check_rows(path: Path) -> None:
    """Raise OSError for a PNG whose compressed data is valid but ends before its last row; the pixels are not kept."""
    inflate, total, expected = zlib.decompressobj(), 0, 0
    with open(path, "rb") as file:
        for kind, data in _chunks(file):
            if kind == b"IHDR":
                width, height, depth, colours, _, _, interlaced = struct.unpack(">IIBBBBB", data)
                for left, top, across, down in ADAM7 if interlaced else WHOLE:
                    columns, lines = ceil((width - left) / across), ceil((height - top) / down)
                    expected += lines * (1 + ceil(columns * depth * SAMPLES[colours] / 8)) if columns > 0 else 0
            while kind == b"IDAT" and data and total < expected:
                total += len(inflate.decompress(data, BLOCK))
                data = inflate.unconsumed_tail
    total += len(inflate.flush())
    if total < expected:
        raise OSError("it holds fewer rows of pixels than its height")


def _check_icons(path: Path) -> None:
    with open(path, "rb") as file:
        data = file.read()
        place = data.find(SIGNATURE)
        while place >= 0:
            file.seek(place)
            check_png(file)
            place = data.find(SIGNATURE, place + 1)
