"""TIFF: right pixels, or a reason; nothing of libtiff on the terminal."""

from __future__ import annotations

import os
import struct
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from etude.core.errors import InputError
from etude.images import decode
from etude.images.decode import FIRST, fault_of, read_picture
from etude.images.tiff import libtiff_errors

WHITE = (255, 255, 255)
WIDTH, HEIGHT = 32, 16
TYPES = {"B": 1, "H": 3, "I": 4, "R": 5}  # letter of struct, or R for fractions → TIFF's number of the type
RAMP = np.linspace(0, 1, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH)


def tiff(pixels: bytes, tags: Mapping[int, tuple[str, list[int]]]) -> bytes:
    """A little-endian TIFF of one strip. Tags: number → type and values; size and place of the strip are added."""
    fields: dict[int, tuple[str, list[int]]] = {
        256: ("H", [WIDTH]), 257: ("H", [HEIGHT]), 259: ("H", [1]), 273: ("I", [8]), 278: ("H", [HEIGHT]),
        279: ("I", [len(pixels)]), **tags,
    }  # fmt: skip
    offset = 8 + len(pixels)
    extra, entries = b"", b""
    for tag, (kind, values) in sorted(fields.items()):
        data = struct.pack(f"<{len(values)}{kind.replace('R', 'I')}", *values)
        if len(data) > 4:
            place = offset + len(extra)
            extra, data = extra + data + b"\0" * (len(data) % 2), struct.pack("<I", place)
        entries += struct.pack("<HHI", tag, TYPES[kind], len(values) // (2 if kind == "R" else 1)) + data.ljust(
            4, b"\0"
        )
    directory = struct.pack("<H", len(fields)) + entries + b"\0\0\0\0"
    return b"II*\0" + struct.pack("<I", offset + len(extra)) + pixels + extra + directory


def grey(bits: int, white_is_zero: bool = False) -> dict[int, tuple[str, list[int]]]:
    return {258: ("H", [bits]), 262: ("H", [0 if white_is_zero else 1]), 277: ("H", [1])}


def colours(bits: int, count: int = 3, photometric: int = 2, planes: int = 1) -> dict[int, tuple[str, list[int]]]:
    kinds = {258: ("H", [bits] * count), 262: ("H", [photometric]), 277: ("H", [count]), 284: ("H", [planes])}
    return kinds if count == 3 else kinds | {338: ("H", [2])}


def read(path: Path, data: bytes) -> NDArray[np.int64]:
    path.write_bytes(data)
    return np.asarray(read_picture(path, WHITE).image).astype(np.int64)


def fault(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(InputError) as refused:
        read_picture(path, WHITE)
    return refused.value.fault


def test_sixteen_bit_colours_are_read_side_by_side_and_refused_in_separate_planes(tmp_path: Path) -> None:
    wide = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=2)
    values = np.rint(wide * 65535).astype("<u2")
    found = read(tmp_path / "a.tif", tiff(values.tobytes(), colours(16)))
    assert np.abs(found - wide * 255).max() <= 1
    separate = np.moveaxis(values, 2, 0).copy()
    data = tiff(separate.tobytes(), colours(16, planes=2) | {273: ("I", [8, 1032, 2056]), 279: ("I", [1024] * 3)})
    assert "separate planes" in fault(tmp_path / "b.tif", data)
    assert "separate planes" in str(fault_of(tmp_path / "b.tif"))
    eight = np.moveaxis(np.rint(wide * 255).astype(np.uint8), 2, 0).copy()
    data = tiff(eight.tobytes(), colours(8, planes=2) | {273: ("I", [8, 520, 1032]), 279: ("I", [512] * 3)})
    assert (read(tmp_path / "c.tif", data) == np.rint(wide * 255)).all()


@pytest.mark.parametrize("factor", [1, 257])
def test_a_palette_of_eight_bit_values_has_the_colours_of_one_of_sixteen_bits(tmp_path: Path, factor: int) -> None:
    indices = np.arange(WIDTH * HEIGHT).astype(np.uint8).reshape(HEIGHT, WIDTH)
    palette = np.stack([np.arange(256), 255 - np.arange(256), np.full(256, 77)])
    tags = {258: ("H", [8]), 262: ("H", [3]), 277: ("H", [1]), 320: ("H", (palette * factor).ravel().tolist())}
    found = read(tmp_path / "a.tif", tiff(indices.tobytes(), tags))
    assert (found == palette.T[indices]).all()


def test_grey_of_twelve_packed_bits_has_its_own_white(tmp_path: Path) -> None:
    values = np.rint(RAMP * 4095).astype(int).ravel()
    first, second = values[::2], values[1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1).astype(np.uint8)
    found = read(tmp_path / "a.tif", tiff(packed.tobytes(), grey(12)))
    assert np.abs(found[..., 0] - RAMP * 255).max() <= 1


def test_grey_of_twelve_bits_in_sixteen_is_not_taken_for_a_dark_picture(tmp_path: Path) -> None:
    assert "of fewer bits" in fault(tmp_path / "a.tif", tiff(np.rint(RAMP * 4095).astype("<u2").tobytes(), grey(16)))
    wide = np.rint(np.stack([RAMP] * 3, axis=2) * 4080).astype("<u2")
    assert "of fewer bits" in fault(tmp_path / "b.tif", tiff(wide.tobytes(), colours(16)))
    Image.fromarray(np.rint(RAMP * 1023).astype(np.uint16)).save(tmp_path / "c.png")
    with pytest.raises(InputError, match="ends at 1023 of 65535"):
        read_picture(tmp_path / "c.png", WHITE)
    dark = np.rint(RAMP * 5000).astype("<u2")
    assert read(tmp_path / "d.tif", tiff(dark.tobytes(), grey(16))).max() == round(5000 / 257)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (
            tiff(np.arange(512).astype("<i4").tobytes(), grey(32) | {339: ("H", [2])}),
            "no standard says which of them is white",
        ),
        (tiff(np.arange(512).astype("<u4").tobytes(), grey(32)), "no standard says which of them is white"),
        (
            tiff(np.arange(512).astype("<i2").tobytes(), grey(16) | {339: ("H", [2])}),
            "no standard says which of them is white",
        ),
        (
            tiff(np.arange(512).astype("u1").tobytes(), grey(8) | {339: ("H", [2])}),
            "no standard says which of them is white",
        ),
        (
            tiff(np.arange(512).astype("<f4").tobytes(), grey(32) | {339: ("H", [3])}),
            "no standard says which of them is white",
        ),
        (tiff(np.arange(512).astype("<u2").tobytes(), grey(16, white_is_zero=True)), "0 at white"),
        (tiff(bytes(HEIGHT * WIDTH * 3 // 2), colours(8, photometric=6) | {530: ("H", [2, 2])}), "subsampled"),
        (tiff(bytes(512), grey(8) | {254: ("I", [1])}), "begins with a small preview"),
        (tiff(bytes(512), grey(8) | {50706: ("B", [1, 4, 0, 0])}), "raw file \\(DNG\\)"),
    ],
)
def test_what_pillow_misreads_is_refused_with_the_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(InputError, match=reason):
        read_picture(tmp_path / "a.tif", WHITE)


def test_grey_with_premultiplied_alpha_is_laid_on_the_background(tmp_path: Path) -> None:
    alpha = np.full((HEIGHT, WIDTH), 128)
    premultiplied = np.stack([np.full((HEIGHT, WIDTH), 50), alpha], axis=2).astype(np.uint8)
    tags = {258: ("H", [8, 8]), 262: ("H", [1]), 277: ("H", [2]), 338: ("H", [1])}
    found = read(tmp_path / "a.tif", tiff(premultiplied.tobytes(), tags))
    assert np.abs(found - (50 + 255 * (1 - 128 / 255))).max() <= 2


def test_an_error_of_libtiff_is_the_reason_and_does_not_reach_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    drawing = Image.fromarray(np.random.default_rng(0).integers(0, 2, (100, 120)).astype(bool))
    drawing.save(tmp_path / "a.tif", compression="group4")
    whole = bytearray((tmp_path / "a.tif").read_bytes())
    whole[len(whole) // 2] ^= 0x10
    (tmp_path / "a.tif").write_bytes(whole)
    with Image.open(tmp_path / "a.tif") as image:
        image.load()  # Pillow goes on, with wrong pixels
    assert "Fax4Decode" in capfd.readouterr().err
    with pytest.raises(InputError, match="a.tif: cannot be decoded .*Fax4Decode"):
        read_picture(tmp_path / "a.tif", WHITE)
    assert capfd.readouterr().err == ""


def test_stderr_is_itself_again_after_libtiff_and_a_progress_bar_is_no_error(capfd: pytest.CaptureFixture[str]) -> None:
    with libtiff_errors() as lines:
        os.write(2, b"\x1b[2K prepare 10 %\nLZWDecode: Corrupted LZW table.\n")
        os.write(2, b"\x1b[2K prepare 20 %\x1b[0mtempfile.tif: Read error on strip 1.\n")
    sys.stderr.write("after")
    sys.stderr.flush()
    assert lines == ["LZWDecode: Corrupted LZW table.", "tempfile.tif: Read error on strip 1."]
    assert capfd.readouterr().err == "\x1b[2K prepare 10 %\n\x1b[2K prepare 20 %\x1b[0mafter"


def test_what_other_threads_write_is_no_error_of_libtiff_and_is_not_lost(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (9, 9), "red").save(tmp_path / "a.tif")
    others = "warning: pets: 2 files.\nINFO: x.\nDeprecationWarning: y.\nValueError: z.\nNext: a\nb.py:3: c.\nplain\n"
    load = decode.load_whole

    def loaded_meanwhile(image: Image.Image, path: Path) -> None:
        thread = threading.Thread(target=os.write, args=(2, others.encode()))
        thread.start()
        thread.join()
        load(image, path)

    monkeypatch.setattr(decode, "load_whole", loaded_meanwhile)
    assert read_picture(tmp_path / "a.tif", WHITE).notes == ()
    assert capfd.readouterr().err == others


def test_only_the_first_page_is_used_and_that_is_noted(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (9, 9), colour) for colour in ("red", "green")]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "b.tif")
    picture = read_picture(tmp_path / "a.tif", WHITE)
    assert picture.image.getcolors() == [(81, (255, 0, 0))]
    assert picture.notes == (FIRST,)
    assert read_picture(tmp_path / "b.tif", WHITE).notes == ()


def test_strips_at_one_place_or_nowhere_are_refused(tmp_path: Path) -> None:
    half, kinds = WIDTH * HEIGHT // 2, grey(8) | {278: ("H", [HEIGHT // 2])}
    for places, right in (((8, 8 + half), True), ((8, 8), False), ((8, 0), False)):
        data = tiff(bytes(range(256)) * 2, kinds | {273: ("I", list(places)), 279: ("I", [half, half])})
        (tmp_path / "a.tif").write_bytes(data)
        said = fault_of(tmp_path / "a.tif")
        assert said is None if right else "have no offset, or the same one" in str(said)


def test_a_strip_of_jpeg_that_is_cut_and_then_ended_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.tif", compression="jpeg", tiffinfo={278: 32})
    with Image.open(tmp_path / "a.tif") as image:
        places, counts = (dict(image.tag_v2)[tag] for tag in (273, 279))  # type: ignore[attr-defined]
    whole = (tmp_path / "a.tif").read_bytes()
    assert len(places) == 2
    read(tmp_path / "a.tif", whole)
    middle, end = places[0] + counts[0] // 2, places[0] + counts[0]
    cut = whole[:middle] + b"\xff\xd9" + bytes(end - middle - 2) + whole[end:]
    assert "the file is cut" in fault(tmp_path / "a.tif", cut)


def test_an_old_jpeg_without_tables_is_refused(tmp_path: Path) -> None:
    kinds = colours(8, photometric=6) | {259: ("H", [6]), 530: ("H", [2, 2])}
    (tmp_path / "a.tif").write_bytes(tiff(bytes(100), kinds))
    assert "no tables" in str(fault_of(tmp_path / "a.tif"))


@pytest.mark.parametrize(("weights", "right"), [([299, 587, 114], True), ([2126, 7152, 722], False)])
def test_ycbcr_of_other_weights_is_refused(tmp_path: Path, weights: list[int], right: bool) -> None:
    fractions = [number for weight in weights for number in (weight, sum(weights))]
    data = tiff(bytes(WIDTH * HEIGHT * 3), colours(8, photometric=6) | {529: ("R", fractions), 530: ("H", [1, 1])})
    (tmp_path / "a.tif").write_bytes(data)
    said = fault_of(tmp_path / "a.tif")
    assert said is None if right else "YCbCr" in str(said)


@pytest.mark.parametrize(("kind", "right"), [(0, True), (2, True), (1, False), (3, False)])
def test_a_page_of_several_is_a_picture_and_one_that_is_marked_as_a_preview_is_none(
    tmp_path: Path, kind: int, right: bool
) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(bytes(512), grey(8) | {254: ("I", [kind])}))
    said = fault_of(tmp_path / "a.tif")
    assert said is None if right else "begins with a small preview" in str(said)


@pytest.mark.parametrize(
    ("tag", "fractions", "right"),
    [
        (529, [2994, 10_000, 5865, 10_000, 1141, 10_000], True),  # rounded in another way
        (529, [299, 1000, 587, 1000, 116, 1000], False),
        (532, [0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1], True),
        (532, [16, 1, 235, 1, 128, 1, 240, 1, 128, 1, 240, 1], False),
    ],
)
def test_ycbcr_is_read_with_jpegs_weights_and_levels_alone(
    tmp_path: Path, tag: int, fractions: list[int], right: bool
) -> None:
    kinds = colours(8, photometric=6) | {530: ("H", [1, 1]), tag: ("R", fractions)}
    (tmp_path / "a.tif").write_bytes(tiff(bytes(WIDTH * HEIGHT * 3), kinds))
    said = fault_of(tmp_path / "a.tif")
    assert said is None if right else "YCbCr" in str(said)


@pytest.mark.parametrize(("largest", "brightest"), [(255, 255), (256, 1)])
def test_a_palette_has_eight_bits_only_if_no_value_needs_more(tmp_path: Path, largest: int, brightest: int) -> None:
    palette = np.linspace(0, largest, 256).round().astype(int)
    tags = {258: ("H", [8]), 262: ("H", [3]), 277: ("H", [1]), 320: ("H", np.tile(palette, 3).tolist())}
    indices = np.arange(WIDTH * HEIGHT).astype(np.uint8)
    assert read(tmp_path / "a.tif", tiff(indices.tobytes(), tags)).max() == brightest
