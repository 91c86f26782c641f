"""What is no picture is named by what it is; what needs more than Pillow is read, or says what reads it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import plistlib
import sqlite3
import tarfile
import wave
from contextlib import closing
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
    "q.png": (b"\xe9t\xe9 " * 9, "not a picture of a known format"),
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


def written(folder: Path) -> dict[str, bytes]:
    """What a file is → the bytes of one that Python's own writers made."""
    array, archive, sound, database = io.BytesIO(), io.BytesIO(), io.BytesIO(), folder / "database"
    np.save(array, np.zeros(2))
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a"))
    with wave.open(sound, "wb") as wav:
        wav.setparams((1, 2, 8000, 1, "NONE", ""))
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("create table a (b)")
    return {
        "a gzip archive": gzip.compress(b"a"),
        "a bzip2 archive": bz2.compress(b"a"),
        "an xz archive": lzma.compress(b"a"),
        "a tar archive": archive.getvalue(),
        "sound (WAV)": sound.getvalue(),
        "a database (SQLite)": database.read_bytes(),
        "a NumPy array": array.getvalue(),
        "a pickle": pickle.dumps([1], protocol=2),
        "a property list of macOS": plistlib.dumps({"a": 1}, fmt=plistlib.FMT_BINARY),
    }


def test_what_pythons_own_writers_make_is_named(tmp_path: Path) -> None:
    for kind, content in written(tmp_path).items():
        (tmp_path / "file").write_bytes(content)
        assert kinds.not_a_picture(tmp_path / "file") == f"is {kind}"


BEGINNINGS = {  # of files as their programs write them, where no suffix helps
    b"II*\0\x10\0\0\0CR\2\0": "a camera's raw file (CR2)",
    b"\0\0\0\x18ftypcrx \0\0\0\1": "a camera's raw file (CR3)",
    b"IIRO\x08\0\0\0": "a camera's raw file (ORF)",
    b"RIFF\x10\0\0\0AVI LIST": "a video (AVI)",
    b"\0\0\0\x14ftypqt  \0": "a video (MOV)",
    b"\0\0\0\x20ftypM4A \0": "sound (M4A)",
    b"\0\0\0\x20ftypisom": "a video (MP4)",
    b"\0\0\x10\0moov\0\0": "a video (MOV)",
    bytes(128) + b"DICM\2\0": "DICOM",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"\x28\xb5\x2f\xfd\x04": "a zstd archive",
    b"\x89HDF\r\n\x1a\n": "HDF5",
    b"SIMPLE  =     T": "FITS",
    b"ID3\4\0": "sound (MP3)",
    b"RIFF\x10\0\0\0WEBPVP8 ": "WebP, but damaged, or of a kind that is not supported",
    b"\0\0\0\x1cftypavif\0": "AVIF, but damaged, or of a kind that is not supported",
    b"\0\0\0\x1cftypavis\0": "AVIF, but damaged",
    b"\xff\xd8\xff\xe0\0\x10JFIF": "JPEG, but damaged",
    b"GIF89a\x01\0": "GIF, but damaged",
    b"MM\0+\0\x08\0\0": "TIFF, but damaged",
    b"II+\0\x08\0\0\0": "TIFF, but damaged",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000, but damaged",
    b"\xff\x4f\xff\x51\0\x2f": "JPEG 2000, but damaged",
    b"qoif\0\0\0\x08": "QOI, but damaged",
    b"\0\0\1\0\2\0": "ICO, but damaged",
    b"BM\x36\0\0\0": "BMP, but damaged",
    b"gimp xcf v011\0": "a GIMP file (XCF)",
    b"%!PS-Adobe-3.0": "PostScript",
    b"\xc5\xd0\xd3\xc6\x20\0": "PostScript",
    b"AT&TFORM\0\0": "DjVu",
    b"v/1\1\2\0\0\0": "OpenEXR",
    b"#?RADIANCE\n": "Radiance HDR",
    b"II\xbc\1\x20\0": "JPEG XR",
    b"DDS \x7c\0\0\0": "a DDS texture",
    b"icns\0\0\x10\0": "an icon of macOS (ICNS)",
    b"\0\0\x10\0mdat\0\0": "a video (MOV)",
    b"FLV\1\5\0": "a video (FLV)",
    b"\0\0\1\xba\x44": "a video (MPEG)",
    b"\x30\x26\xb2\x75\x8e\x66": "a video (WMV)",
    b"OggS\0\2": "sound or video (Ogg)",
    b"fLaC\0\0\0\x22": "sound (FLAC)",
    b"Rar!\x1a\7\1\0": "a RAR archive",
    b"\xd0\xcf\x11\xe0\xa1\xb1": "an office document",
    b"MZ\x90\0\3": "a program of Windows",
    b"\x7fELF\2\1\1": "a program",
    b"\0\5\x16\7\0\2": "a resource file of macOS (AppleDouble)",
    b"{\\rtf1\\ansi": "a text document (RTF)",
    b"IIRS\x08\0\0\0": "a camera's raw file (ORF)",
    b"MMOR\0\0\0\x08": "a camera's raw file (ORF)",
    b"IIU\0\x18\0\0\0": "a camera's raw file (RW2)",
    b"FOVb\0\0\2\0": "a camera's raw file (X3F)",
    b"\0MRM\0\0\1\0": "a camera's raw file (MRW)",
}


@pytest.mark.parametrize("content", BEGINNINGS)
def test_a_file_without_a_suffix_is_named_by_its_first_bytes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert kinds.not_a_picture(tmp_path / "file").startswith(f"is {BEGINNINGS[content]}")
    (tmp_path / "file").write_bytes(b"\1" + content)  # one byte off, it is something else
    assert not kinds.not_a_picture(tmp_path / "file").startswith(f"is {BEGINNINGS[content]}")


@pytest.mark.parametrize(
    ("content", "kind"),
    [(BOX + b"heic\0\0\0\0mif1heic", "HEIC"), (b"\xff\x0a\0\0", "JPEG XL"), (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL")],
)
def test_what_phones_write_names_the_command_that_installs_its_reader_or_is_damaged(
    tmp_path: Path, content: bytes, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(content)
    monkeypatch.setattr(kinds, "plugins", lambda: ())
    with pytest.raises(InputError, match=rf"is {kind}: run `make setup EXTRAS=heic` to read it"):
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
