"""JPEG 2000 with a palette: right colours, or a reason."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from PIL import Image

from etude.images.decode import fault_of, read_picture

RED, GREEN, BLUE = (200, 30, 30), (30, 200, 30), (30, 30, 200)


def with_palette(colours: list[tuple[int, int, int]], index: int) -> bytes:
    """A picture in one colour of a palette: Pillow's grey one, with two more boxes in its header."""
    buffer = io.BytesIO()
    Image.new("L", (32, 32), index).save(buffer, "JPEG2000", irreversible=False)
    data = bytearray(buffer.getvalue())
    palette = struct.pack(">HB", len(colours), 3) + bytes([7, 7, 7]) + b"".join(map(bytes, colours))
    mapping = b"".join(struct.pack(">HBB", 0, 1, band) for band in range(3))
    boxes = b"".join(
        struct.pack(">I4s", 8 + len(body), kind) + body for kind, body in ((b"pclr", palette), (b"cmap", mapping))
    )
    place = data.index(b"jp2h") - 4
    size = struct.unpack_from(">I", data, place)[0]
    struct.pack_into(">I", data, place, size + len(boxes))
    struct.pack_into(">I", data, data.index(b"colr") + 7, 16)  # sRGB
    return bytes(data[: place + size]) + boxes + bytes(data[place + size :])


@pytest.mark.parametrize(("colours", "right"), [([RED, GREEN, BLUE], True), ([RED, RED, GREEN, BLUE], False)])
def test_a_palette_with_equal_colours_is_refused(
    tmp_path: Path, colours: list[tuple[int, int, int]], right: bool
) -> None:
    (tmp_path / "a.jp2").write_bytes(with_palette(colours, 2))
    fault = fault_of(tmp_path / "a.jp2")
    assert fault is None if right else "equal colours" in str(fault)
    if right:
        assert read_picture(tmp_path / "a.jp2", (255, 255, 255)).image.getpixel((5, 5)) == BLUE
