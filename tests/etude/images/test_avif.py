"""AVIF: a picture is refused if Pillow ignores a property in its boxes, such as a crop or HDR."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from PIL import Image

from etude.core.errors import InputError
from etude.images.decode import fault_of, read_picture

WHITE = (255, 255, 255)


def grow(data: bytearray, kind: bytes, by: int) -> None:
    """Add to the size of the box of this kind."""
    place = data.index(kind) - 4
    struct.pack_into(">I", data, place, struct.unpack_from(">I", data, place)[0] + by)


def with_property(path: Path, added: bytes, own: bool = True) -> bytes:
    """The AVIF file with one more property of its picture, or of none: its `meta` box lies behind its pixels."""
    whole = bytearray(path.read_bytes())
    start = whole.index(b"meta") - 4
    size = struct.unpack_from(">I", whole, start)[0]
    meta = whole[start : start + size]
    whole[start + 4 : start + 8] = b"free"  # so that no pixel moves
    place, count = meta.index(b"ipco") + 4, 0
    end = place - 8 + struct.unpack_from(">I", meta, place - 8)[0]
    while place < end:
        place, count = place + struct.unpack_from(">I", meta, place)[0], count + 1
    entry = meta.index(b"ipma") + 4 + 4 + 4 + 2  # version and flags, number of entries, identifier of the first
    listed = meta[entry]
    if own:
        meta.insert(entry + 1 + listed, 0x80 | (count + 1))
        meta[entry] = listed + 1
        grow(meta, b"ipma", 1)
    meta[end:end] = added
    grow(meta, b"ipco", len(added))
    grow(meta, b"iprp", len(added) + own)
    grow(meta, b"meta", len(added) + own)
    return bytes(whole + meta)


CLAP = struct.pack(">I4s8I", 40, b"clap", 20, 1, 10, 1, 0, 1, 0, 1)  # the middle 20 × 10


def test_a_picture_with_a_crop_of_its_own_is_refused(tmp_path: Path) -> None:
    Image.linear_gradient("L").resize((64, 48)).convert("RGB").save(tmp_path / "a.avif")
    assert fault_of(tmp_path / "a.avif") is None
    (tmp_path / "b.avif").write_bytes(with_property(tmp_path / "a.avif", CLAP))
    with Image.open(tmp_path / "b.avif") as image:
        assert image.size == (64, 48)  # Pillow shows all of it
    with pytest.raises(InputError, match="only a part of its pixels is to be shown"):
        read_picture(tmp_path / "b.avif", WHITE)
    assert "clap" in str(fault_of(tmp_path / "b.avif"))
    (tmp_path / "c.avif").write_bytes(with_property(tmp_path / "a.avif", CLAP, own=False))
    assert fault_of(tmp_path / "c.avif") is None  # of a thumbnail, say


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG"), (13, None)])
def test_a_picture_of_high_dynamic_range_is_refused(tmp_path: Path, transfer: int, name: str | None) -> None:
    Image.linear_gradient("L").resize((64, 48)).convert("RGB").save(tmp_path / "a.avif")
    data = bytearray((tmp_path / "a.avif").read_bytes())
    struct.pack_into(">HH", data, data.index(b"colrnclx") + 8, 9 if name else 1, transfer)
    (tmp_path / "a.avif").write_bytes(data)
    fault = fault_of(tmp_path / "a.avif")
    assert fault is None if name is None else f"high dynamic range ({name})" in str(fault)
