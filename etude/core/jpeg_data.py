"""JPEG data that end early: libjpeg fills what is missing with grey, and Pillow reports none of its warnings."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from random import Random

from PIL import Image, ImageChops
from PIL.JpegImagePlugin import JpegImageFile

# Bytes that are decoded only if a scan's data end before its last pixel.
MORE = Random(0).randbytes(256).replace(b"\xff", b"\x55")
RESTART = re.compile(rb"\xff[\xd0-\xd7]")
SCAN_END = re.compile(rb"\xff+[\x01-\xcf\xd8-\xfe]")  # a marker that is no restart
END, SCAN, INTERVAL = 0xD9, 0xDA, 0xDD  # markers; INTERVAL gives the distance between two restarts
HUFFMAN = frozenset({0xC0, 0xC1, 0xC2})  # frames; with arithmetic coding, an encoder may leave out zeros at the end
ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without data
GREY = (127, 128, 129)  # what libjpeg fills in, in each band of any mode
TOLERATED = 1e-3  # share of the pixels: some programs leave out the last bits of a scan
ZEROS = bytes(64)


def ends_early(image: Image.Image, data: bytes) -> bool:
    """Whether a loaded JPEG, whose file holds ``data``, lacks some of its pixels.

    It is decoded again with more bytes behind each scan. These change nothing where the scan was complete. A picture of
    one scan without restarts is decoded again only if it ends in grey.
    """
    parts = list(_parts(data))
    kinds = [kind for kind, _ in parts]
    if END not in kinds and data.endswith(ZEROS):
        return True
    if HUFFMAN.isdisjoint(kinds):
        return False
    if kinds.count(SCAN) == 1 and INTERVAL not in kinds and not _ends_in_grey(image):
        return False
    longer = b"".join(RESTART.sub(MORE + rb"\g<0>", part) + MORE if kind is None else part for kind, part in parts)
    reduced = getattr(image, "decoderconfig", None)
    try:
        with JpegImageFile(io.BytesIO(longer + b"\xff\xd9")) as again:
            if reduced:
                again.draft(None, (again.width // reduced[0], again.height // reduced[0]))
            again.load()
    except (OSError, SyntaxError):  # then it is not known
        return False
    counts = ImageChops.difference(image, again).histogram()
    return sum(counts[::256]) < (1 - TOLERATED) * sum(counts)


def _parts(data: bytes) -> Iterator[tuple[int | None, bytes]]:
    """The segments of the file's first picture, each with its marker; the pixels of a scan with None."""
    place, kind = 0, 0
    while kind != END and place + 1 < len(data):
        kind = data[place + 1]
        if data[place] != 0xFF or kind == 0xFF:  # between segments: skipped, as libjpeg does
            place += 1
            continue
        length = 0 if kind in ALONE or kind == END else int.from_bytes(data[place + 2 : place + 4])
        yield kind, data[place : place + 2 + length]
        place += 2 + length
        if kind == SCAN:
            found = SCAN_END.search(data, place)
            end = found.start() if found else len(data)
            yield None, data[place:end]
            place = end


def _ends_in_grey(image: Image.Image) -> bool:
    corner = image.getpixel((image.width - 1, image.height - 1))
    return all(value in GREY for value in (corner if isinstance(corner, tuple) else (corner,)))
