"""AVIF and HEIC: what their boxes say of the picture and Pillow does not apply (ISO/IEC 14496-12 and 23008-12)."""

from __future__ import annotations

import struct
from pathlib import Path

from etude.core.described_colours import profile_of_codes
from etude.core.errors import UnusableError

WINDOW = b"clap"  # clean aperture: only a part of the coded picture is to be shown
COLOURS = b"colrnclx"  # then two bytes each: codes of primaries and of the transfer function (ITU-T H.273)


def refuse_misread(path: Path, is_avif: bool) -> None:
    """Raise UnusableError for a file whose pixels Pillow shows otherwise than the file says."""
    boxes = _metadata(path)
    if WINDOW in boxes and is_avif:
        raise UnusableError("shows only a part of its pixels (clap), which Pillow does not apply")
    described_profile(path)


def described_profile(path: Path) -> bytes | None:
    """The ICC profile of the colours that the boxes give by codes; None where that is sRGB. Raises UnusableError."""
    boxes = _metadata(path)
    place = boxes.find(COLOURS)
    if place < 0:
        return None
    primaries, transfer = struct.unpack_from(">HH", boxes.ljust(place + 12, b"\0"), place + 8)
    return profile_of_codes(primaries, transfer)


def _metadata(path: Path) -> bytes:
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
