"""The boxes of AVIF and HEIC files (ISO/IEC 14496-12 and 23008-12), and the colours that they describe."""

from __future__ import annotations

import struct
from pathlib import Path

from etude.core.described_colours import profile_of_codes

COLOURS = b"colrnclx"  # then two bytes each: codes of primaries and of the transfer function (ITU-T H.273)


def described_profile(path: Path) -> bytes | None:
    """The ICC profile of the colours that the boxes give by codes; None where that is sRGB. Raises UnusableError."""
    boxes = metadata(path)
    place = boxes.find(COLOURS)
    if place < 0:
        return None
    primaries, transfer = struct.unpack_from(">HH", boxes.ljust(place + 12, b"\0"), place + 8)
    return profile_of_codes(primaries, transfer)


def metadata(path: Path) -> bytes:
    """The content of the file's first `meta` box, which holds the properties of its pictures."""
    with open(path, "rb") as file:
        while head := file.read(8):
            size = int.from_bytes(head[:4])
            if size == 1:  # the size is too large for four bytes
                size = int.from_bytes(file.read(8)) - 8
            if head[4:] == b"meta":
                return file.read(size - 8) if size else file.read()
            if size < 8:  # the last box, or damaged
                break
            file.seek(size - 8, 1)
    return b""
