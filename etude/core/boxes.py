"""The boxes of AVIF and HEIC files (ISO/IEC 14496-12 and 23008-12), and the colours that they describe.

A file has several pictures (tiles, a thumbnail, transparency, a map of brightness) and one list of all their
properties. The box `pitm` names the picture that is shown, and `ipma` says which properties each picture has.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from etude.core.described_colours import profile_of_codes

COLOURS, CODES = b"colr", b"nclx"  # then two bytes each: codes of primaries and of the transfer function (ITU-T H.273)
Box = tuple[bytes, bytes]  # kind and content


def described_profile(path: Path) -> bytes | None:
    """The ICC profile for the colour codes in the boxes; None for sRGB, or without codes. Raises UnusableError.

    Codes that are not in a box but only in the coded picture are not read: the picture is taken as sRGB.
    """
    own, every = _properties(path)
    colours = [content for kind, content in own if kind == COLOURS]
    colours = colours or [content for kind, content in every if kind == COLOURS]  # a grid may have none of its own
    codes = next((content for content in colours if content.startswith(CODES)), b"")
    return profile_of_codes(*struct.unpack_from(">HH", codes, 4)) if len(codes) >= 8 else None


def has_property(path: Path, kind: bytes) -> bool:
    """Whether the picture that is shown has a property of this kind."""
    return any(kind == own for own, _ in _properties(path)[0])


def _properties(path: Path) -> tuple[list[Box], list[Box]]:
    """The properties of the picture that is shown, and those of all pictures; raises struct.error for damaged boxes."""
    boxes = dict(_boxes(_metadata(path)[4:]))
    lists = dict(_boxes(boxes.get(b"iprp", b"")))
    every = list(_boxes(lists.get(b"ipco", b"")))
    shown = boxes.get(b"pitm", b"")
    item = int.from_bytes(shown[4:])
    places = _places(lists.get(b"ipma", b""), item) if shown else []
    return [every[place - 1] for place in places if 0 < place <= len(every)], every


def _places(associations: bytes, item: int) -> list[int]:
    """The positions of an item's properties in the list of all, counted from 1; 0 means no property."""
    if not associations:
        return []
    version, flags, count = associations[0], associations[3], int.from_bytes(associations[4:8])
    identifier, width, start = (4 if version else 2), (2 if flags & 1 else 1), 8
    for _ in range(count):
        known, number = struct.unpack_from(">IB" if version else ">HB", associations, start)
        start += identifier + 1
        if known == item:
            every = [associations[start + width * i : start + width * (i + 1)] for i in range(number)]
            return [int.from_bytes(place) & (0x7FFF if width == 2 else 0x7F) for place in every]
        start += number * width
    return []


def _boxes(data: bytes) -> Iterator[Box]:
    start = 0
    while start + 8 <= len(data):
        size, kind, head = int.from_bytes(data[start : start + 4]), data[start + 4 : start + 8], 8
        if size == 1:  # the size is too large for four bytes
            size, head = int.from_bytes(data[start + 8 : start + 16]), 16
        if size == 0:  # the last box
            size = len(data) - start
        if size < head:
            return
        yield kind, data[start + head : start + size]
        start += size


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
