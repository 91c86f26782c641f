"""What is no picture is named by what it is; what needs more than Pillow is read, or says what reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from etude.core import pictures
from etude.core.errors import InputError
from etude.images import kinds
from etude.images.decode import fault_of, read_picture

WHITE = (255, 255, 255)
BOX = b"\0\0\0\x20ftyp"

FILES = {
    "a.jpg": (b"PK\3\4\x14\0", "ZIP archive"),
    "b.png": (b"%PDF-1.7\n", "a PDF"),
    "c.png": (BOX + b"isom\0\0\2\0", "a video"),
    "d.jpg": (b"\n<!DOCTYPE html><html><body>404</body></html>", "a web page"),
    "e.png": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "f.jpg": (b"8BPS\0\1\0\0\0\0\0\0\0\3", "Photoshop"),
    "g.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "git lfs pull"),
    "h.png": (b'{"error": "not found"}', "text"),
    "i.png": (b"\1\2\3\4 nobody knows", "not a picture of a known format"),
    "j.png": (b"\x89PNG\r\n\x1a\n\0\0", "PNG, but damaged"),
    "k.bin": (b"", "is empty"),
    "l.webm": (b"\x1a\x45\xdf\xa3\x93\x42", "a video"),
    "m.cr2": (b"II*\0\x10\0\0\0CR\2\0", "raw file \\(CR2\\).*darktable"),
    "n.CR3": (b"\0\0\0\x18ftypcrx \0\0\0\1", "raw file \\(CR3\\)"),
    "o.NEF": (b"MM\0*\0\0\0\x08 nothing more", "raw file \\(NEF\\)"),
    "p.raf": (b"FUJIFILMCCD-RAW 0201", "raw file \\(RAF\\)"),
}


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_picture_is_named_by_what_it_is(tmp_path: Path, name: str) -> None:
    content, reason = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=reason) as refused:
        read_picture(tmp_path / name, WHITE)
    assert fault_of(tmp_path / name) == refused.value.fault


@pytest.mark.parametrize(
    ("content", "kind"),
    [(BOX + b"heic\0\0\0\0mif1heic", "HEIC"), (b"\xff\x0a\0\0", "JPEG XL"), (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL")],
)
def test_what_phones_write_names_the_command_that_installs_its_reader_or_is_damaged(
    tmp_path: Path, content: bytes, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(content)
    monkeypatch.setattr(kinds, "plugins", lambda: ())
    with pytest.raises(InputError, match=rf"is {kind}: `make setup EXTRAS=heic` installs what reads it"):
        read_picture(tmp_path / "a.png", WHITE)
    monkeypatch.setattr(kinds, "plugins", lambda: ("HEIF", "JXL"))
    assert kinds.not_a_picture(tmp_path / "a.png") == f"is {kind}, but damaged"


@pytest.mark.parametrize(("plugin", "suffix"), [("pillow_heif", "heic"), ("pillow_jxl", "jxl")])
def test_what_phones_write_is_read_upright_where_its_reader_is_installed(
    tmp_path: Path, plugin: str, suffix: str
) -> None:
    pytest.importorskip(plugin)
    assert pictures.plugins()
    image = Image.new("RGB", (96, 64), (250, 10, 10))
    image.paste((10, 10, 250), (0, 0, 40, 64))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / f"a.{suffix}", exif=exif.tobytes(), quality=95)
    found = np.asarray(read_picture(tmp_path / f"a.{suffix}", WHITE).image).astype(int)
    expected = np.asarray(image.transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < 4
    whole = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(InputError, match="damaged|cannot be decoded"):
        read_picture(tmp_path / f"cut.{suffix}", WHITE)
