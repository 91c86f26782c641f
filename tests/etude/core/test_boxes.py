"""Boxes of AVIF and HEIC: which properties are those of the picture that is shown."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from etude.core.boxes import has_property

SHOWN = 7  # the number of the picture that is shown


def box(kind: bytes, content: bytes, form: str = "short") -> bytes:
    """A box whose size is written in 4 bytes or in 8, or which reaches to the end."""
    size = {"short": 8 + len(content), "long": 1, "last": 0}[form]
    return struct.pack(">I", size) + kind + (struct.pack(">Q", 16 + len(content)) if form == "long" else b"") + content


def associations(places: Sequence[tuple[int, Sequence[int]]], version: int, wide: int) -> bytes:
    """An `ipma` box: each picture's number and the places of its properties, all of them essential."""
    content = bytes([version, 0, 0, wide]) + struct.pack(">I", len(places))
    for item, own in places:
        content += struct.pack(">IB" if version else ">HB", item, len(own))
        for place in own:
            content += struct.pack(">H", 0x8000 | place) if wide else bytes([0x80 | place])
    return box(b"ipma", content)


def write(path: Path, lists: bytes, form: str = "short") -> Path:
    """A file with a `meta` box behind two others."""
    shown = box(b"pitm", bytes(4) + struct.pack(">H", SHOWN))
    path.write_bytes(
        box(b"ftyp", b"avif") + box(b"free", bytes(9), "long") + box(b"meta", bytes(4) + shown + lists, form)
    )
    return path


@pytest.mark.parametrize("form", ["short", "long", "last"])
@pytest.mark.parametrize("wide", [0, 1])
@pytest.mark.parametrize("version", [0, 1])
def test_properties_are_those_of_the_picture_that_is_shown_wherever_it_stands(
    tmp_path: Path, version: int, wide: int, form: str
) -> None:
    properties = b"".join(box(kind, bytes(4)) for kind in (b"ispe", b"clap", b"irot", b"imir"))
    for places in ([(3, [1, 2, 4]), (SHOWN, [1, 3]), (9, [2])], [(SHOWN, [1, 3]), (3, [4])]):
        listed = box(b"iprp", box(b"ipco", properties) + associations(places, version, wide))
        path = write(tmp_path / "a.avif", listed, form)
        kinds = [kind for kind in (b"ispe", b"clap", b"irot", b"imir") if has_property(path, kind)]
        assert kinds == [b"ispe", b"irot"]


@pytest.mark.parametrize("form", ["short", "long", "last"])
def test_boxes_inside_may_be_empty_and_of_every_form(tmp_path: Path, form: str) -> None:
    properties = box(b"clap", b"") + box(b"irot", b"\0", "long") + box(b"imir", b"")
    listed = box(b"iprp", associations([(SHOWN, [1, 2])], 0, 0) + box(b"ipco", properties, form), form)
    path = write(tmp_path / "a.avif", listed)
    path.write_bytes(box(b"free", b"") + path.read_bytes())
    assert [kind for kind in (b"clap", b"irot", b"imir") if has_property(path, kind)] == [b"clap", b"irot"]


def test_places_outside_the_list_of_properties_are_none(tmp_path: Path) -> None:
    listed = box(b"iprp", box(b"ipco", box(b"clap", b"")) + associations([(SHOWN, [0, 2])], 0, 0))
    assert not has_property(write(tmp_path / "a.avif", listed), b"clap")


@pytest.mark.parametrize("lists", [b"", box(b"iprp", box(b"ipco", box(b"clap", b""))), b"\0\0\0\4iprp"])
def test_a_file_that_lacks_the_lists_or_whose_boxes_are_damaged_has_no_property(tmp_path: Path, lists: bytes) -> None:
    assert not has_property(write(tmp_path / "a.avif", lists), b"clap")
    (tmp_path / "b.avif").write_bytes(b"\0\0\0\4free")
    assert not has_property(tmp_path / "b.avif", b"clap")
