"""What a file is by its first bytes: for the errors of readers that expected something else."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

HEAD = 1024  # bytes by which a file is recognised
LONGEST_HEADER = 100_000_000  # bytes, of a safetensors file: what its own library reads at most
Magic = tuple[tuple[int, bytes, str], ...]  # offset, bytes, what the file is
POINTER = b"version https://git-lfs.github.com/spec"

PICTURES: Magic = (
    (0, b"\x89PNG", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"GIF8", "GIF"),
    (8, b"WEBP", "WebP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"qoif", "QOI"),
    (0, b"\0\0\1\0", "ICO"),
    (0, b"BM", "BMP"),
)
OTHERS: Magic = (
    (0, b"PK\3\4", "a ZIP archive (or an office document)"),
    (0, b"%PDF", "a PDF"),
    (0, b"8BPS", "a Photoshop file (PSD)"),
    (0, b"gimp xcf", "a GIMP file (XCF)"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript"),
    (0, b"AT&TFORM", "DjVu"),
    (0, b"v/1\1", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"II\xbc\1", "JPEG XR"),
    (0, b"DDS ", "a DDS texture"),
    (0, b"icns", "an icon of macOS (ICNS)"),
    (128, b"DICM", "DICOM"),
    (0, b"SIMPLE  =", "FITS"),
    (4, b"ftypqt", "a video (MOV)"),
    (4, b"ftypM4A", "sound (M4A)"),
    (4, b"ftyp", "a video (MP4)"),
    (4, b"moov", "a video (MOV)"),
    (4, b"mdat", "a video (MOV)"),
    (0, b"\x1a\x45\xdf\xa3", "a video (WebM or Matroska)"),
    (8, b"AVI ", "a video (AVI)"),
    (0, b"FLV\1", "a video (FLV)"),
    (0, b"\0\0\1\xba", "a video (MPEG)"),
    (0, b"\x30\x26\xb2\x75", "a video (WMV)"),
    (8, b"WAVE", "sound (WAV)"),
    (0, b"ID3", "sound (MP3)"),
    (0, b"OggS", "sound or video (Ogg)"),
    (0, b"fLaC", "sound (FLAC)"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"7z\xbc\xaf", "a 7-Zip archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"\xfd7zXZ", "an xz archive"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"SQLite format", "a database (SQLite)"),
    (0, b"\xd0\xcf\x11\xe0", "an office document"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x89HDF", "HDF5"),
    (0, b"\x80\2", "a pickle"),
    (0, b"MZ", "a program of Windows"),
    (0, b"\x7fELF", "a program"),
    (0, b"\0\5\x16\7", "a resource file of macOS (AppleDouble)"),
    (0, b"bplist", "a property list of macOS"),
    (0, b"{\\rtf", "a text document (RTF)"),
)
TEXTS = ((rb"<svg[\s>]", "SVG"), (rb"<!doctype html|<html|<head|<body", "a web page (HTML)"), (rb"\s*<\?xml", "XML"))
_AGAIN = "fetch or make it again"


def read_head(path: Path | str) -> bytes:
    """The first bytes of a file."""
    with open(path, "rb") as file:
        return file.read(HEAD)


def named(magic: Magic, head: bytes) -> str | None:
    """What a file with this beginning is, by a table; None if the table does not contain it."""
    return next((name for offset, start, name in magic if head.startswith(start, offset)), None)


def anything_else(head: bytes) -> str | None:
    """What a file with this beginning is, if it is neither a picture nor weights; None if that is not known."""
    return named(OTHERS, head) or _text(head)


def what_instead(path: Path | str, own: str) -> tuple[str, str] | None:
    """What a file is instead of ``own``, and what to do: the fault and the action of an error.

    ``own``: safetensors, pickle, JSON or picture. None if the file may be that, or if it is not recognised.
    """
    path = Path(path)
    head = read_head(path)
    if not head:
        return "is empty", _AGAIN
    if head.startswith(POINTER):
        return "is a Git LFS pointer, not the file itself", "run `git lfs pull` in the repository that it comes from"
    if not any(head):
        return "begins with zeros: its download or copy was not completed", "fetch it again"
    if head.startswith(b"GGUF"):
        return "is a GGUF file, of a quantised model", "give a file in float16 or float32, as .safetensors"
    if is_safetensors(head):
        action = f"rename it to {path.with_suffix('.safetensors').name}"
        return None if own == "safetensors" else ("is a safetensors file under another name", action)
    if _is_pickle(path, head):
        action = f"rename it to {path.with_suffix('.ckpt' if own == 'safetensors' else '.pt').name}"
        return None if own == "pickle" else ("is a pickle of PyTorch under another name", action)
    if (picture := named(PICTURES, head)) and own != "picture":
        return f"is a picture ({picture})", "give another file"
    kind = anything_else(head)
    if kind is None or (kind == "text" and own == "JSON"):
        return None
    if "HTML" in kind:
        return f"is {kind}, not the file itself", "fetch it again: the page may say why (a login, a licence, a limit)"
    return f"is {kind}", "unpack it" if "archive" in kind else "give another file"


def is_pointer(path: Path | str) -> bool:
    """Whether a file is a Git LFS pointer: the placeholder of a file that was not fetched."""
    return read_head(path).startswith(POINTER)


def is_safetensors(head: bytes) -> bool:
    """Whether a file begins with the length of a header, in 8 bytes, and a header in JSON."""
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= LONGEST_HEADER


def _is_pickle(path: Path, head: bytes) -> bool:
    """Whether it is a file of ``torch.save``: since torch 1.6, a ZIP archive with a pickle. A damaged one may be."""
    if not head.startswith(b"PK\3\4"):
        return re.match(rb"\x80[\x02-\x05]", head) is not None
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return True


def _text(head: bytes) -> str | None:
    """What kind of text a file begins with, if it is text."""
    markup = next((name for pattern, name in TEXTS if re.search(pattern, head, re.IGNORECASE)), None)
    if markup or not head.isascii():
        return markup
    return "text" if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head) else None
