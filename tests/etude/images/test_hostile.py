"""Files that are made to harm end in one line, before they fill the memory or take hours."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from etude.core.errors import FormatError, InputError
from etude.core.pictures import SIGNATURE
from etude.formats.embedding import embedding_image
from etude.images.decode import PROFILE, fault_of, read_picture
from tests.etude.core.test_pictures import chunk

WHITE = (255, 255, 255)


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = zlib.compress((b"\0" + b"\x80" * min(width, 64)) * min(height, 64))
    return SIGNATURE + header + b"".join(chunks) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    return bytes(data)


BOMB = zlib.compress(bytes(8 << 20))
HOSTILE = {
    "400 megapixels": (png(20_000, 20_000), "megapixels"),
    "a long strip": (png(400_000_000, 1), "megapixels"),
    "a JPEG of 4,290 megapixels": (jpeg(65_500, 65_500), "megapixels"),
    "a text that inflates": (png(64, 64, chunk(b"zTXt", b"Comment\0\0" + BOMB)), "too large"),
    "a text of Unicode that inflates": (png(64, 64, chunk(b"iTXt", b"Comment\0\1\0\0\0" + BOMB)), "too large"),
    "a profile that inflates": (png(64, 64, chunk(b"iCCP", b"p\0\0" + BOMB)), "too large"),
    "more samples than a pixel has": (
        b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 277, 4, 1, 1 << 30) + bytes(4),
        "damaged",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_picture_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    content, reason = HOSTILE[name]
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=reason) as refused:
        read_picture(tmp_path / "a.png", WHITE, lambda size: (64, 64))
    assert refused.value.fault.isprintable()
    assert len(refused.value.fault) < 200


@pytest.mark.parametrize("text", ["{", "[" * 50_000, '{"a": NaN}', "null", '"' + "a" * 100_000, "\0\x1b[31m"])
@pytest.mark.parametrize("kind", ["parameters", "prompt", "workflow", "sd-metadata", "XML:com.adobe.xmp"])
def test_wrong_json_in_a_text_does_not_matter_to_a_picture(text: str, kind: str, tmp_path: Path) -> None:
    information = PngInfo()
    information.add_itxt(kind, text)
    Image.new("RGB", (9, 9), (1, 2, 3)).save(tmp_path / "a.png", pnginfo=information)
    assert read_picture(tmp_path / "a.png", WHITE).image.getcolors() == [(81, (1, 2, 3))]


def test_a_profile_without_sense_is_not_applied_and_that_is_noted(tmp_path: Path) -> None:
    for name, profile in {"zeros": bytes(900_000), "text": b"no profile", "noise": bytes(range(256)) * 3000}.items():
        Image.new("RGB", (9, 9), (1, 2, 3)).save(tmp_path / f"{name}.png", icc_profile=profile)
        picture = read_picture(tmp_path / f"{name}.png", WHITE)
        assert picture.image.getcolors() == [(81, (1, 2, 3))]
        assert picture.notes == (PROFILE,)


def test_pages_of_a_tiff_that_follow_each_other_in_a_circle_have_an_end(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9), (1, 2, 3)).save(tmp_path / "a.tif")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    first = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, first)[0]
    struct.pack_into("<I", data, first + 2 + 12 * count, first)
    (tmp_path / "a.tif").write_bytes(data)
    assert fault_of(tmp_path / "a.tif") is None
    assert read_picture(tmp_path / "a.tif", WHITE).image.getcolors() == [(81, (1, 2, 3))]


def embedding(path: Path, packed: bytes) -> Path:
    information = PngInfo()
    information.add_text(embedding_image.CHUNK, base64.b64encode(packed).decode())
    Image.new("RGB", (9, 9)).save(path, pnginfo=information)
    return path


@pytest.mark.parametrize(
    "packed",
    [
        b"{", b"null", b"[1]", b"\xff\xfe", b"[" * 50_000, json.dumps({"TORCHTENSOR": "text"}).encode(),
        json.dumps({"string_to_param": {"*": {"TORCHTENSOR": [[1], [1, 2]]}}}).encode(),
        json.dumps({"string_to_param": {"*": {"TORCHTENSOR": {"a": 1}}}}).encode(),
        json.dumps({"string_to_param": {"*": [1, 2]}}).encode(), json.dumps({"string_to_param": []}).encode(),
    ],
)  # fmt: skip
def test_a_picture_with_wrong_json_for_an_embedding_is_refused_in_one_line(packed: bytes, tmp_path: Path) -> None:
    with pytest.raises(FormatError) as refused:
        embedding_image.read(embedding(tmp_path / "a.png", packed))
    assert str(refused.value).isprintable()


def test_a_damaged_picture_holds_no_embedding(tmp_path: Path) -> None:
    data = bytearray(embedding(tmp_path / "a.png", b"{}").read_bytes())
    data[data.index(b"IDAT") + 6] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(FormatError, match=r"a.png: holds no embedding \(the check sum"):
        embedding_image.read(tmp_path / "a.png")


def test_pixels_that_inflate_without_an_end_are_cut_off_and_a_large_picture_is_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(embedding_image._hidden(json.dumps({"a": "b" * 10_000}).encode())).save(tmp_path / "a.png")
    assert embedding_image.read_dictionary(tmp_path / "a.png") == {"a": "b" * 10_000}
    monkeypatch.setattr(embedding_image, "MOST", 5_000_000)
    Image.fromarray(embedding_image._hidden(bytes(10_000_000))).save(tmp_path / "b.png")
    Image.fromarray(np.zeros((1300, 1300, 3), np.uint8)).save(tmp_path / "c.png")
    for name in ("b.png", "c.png"):
        with pytest.raises(FormatError, match="holds no embedding"):
            embedding_image.read_dictionary(tmp_path / name)
