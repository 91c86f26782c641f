"""The ICC profile in a BMP of version 5 (Windows' BITMAPV5HEADER), which Pillow leaves out."""

from __future__ import annotations

import struct
from pathlib import Path

HEAD = 14  # bytes before the header, whose first number is its own length
LENGTH = 124  # of the header of version 5
EMBEDDED = b"DEBM"  # "MBED" as a little-endian number; "LINK" would mean the name of another file


def embedded_profile(path: Path) -> bytes | None:
    """The profile, incomplete if the file ends early; None if there is none."""
    with open(path, "rb") as file:
        head = file.read(HEAD + LENGTH)
        if len(head) < HEAD + LENGTH or int.from_bytes(head[HEAD : HEAD + 4], "little") < LENGTH:
            return None
        kind, place, size = struct.unpack_from("<4s52xII", head, HEAD + 56)
        if kind != EMBEDDED:
            return None
        file.seek(HEAD + place)
        return file.read(min(size, path.stat().st_size))
