"""Which kinds of files are read as pictures, and what the others are."""

from __future__ import annotations

import re
from pathlib import Path

from etude.core.pictures import plugins

# Named, so that no reader with a weak signature takes a stray file for a picture and none that runs programs is used.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "QOI", "ICO")
INSTALL = "`make setup EXTRAS=heic` installs what reads it"
HEAD = 1024  # bytes that tell what a file is
Magic = tuple[tuple[int, bytes, str], ...]  # offset, bytes, what the file is

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
OPTIONAL: Magic = (
    *((4, b"ftyp" + brand, "HEIC") for brand in (b"hei", b"hev", b"mif", b"msf")),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
)
RAW: Magic = (
    (8, b"CR\2\0", "CR2"),
    (4, b"ftypcrx ", "CR3"),
    (0, b"FUJIFILMCCD-RAW", "RAF"),
    (0, b"IIRO", "ORF"),
    (0, b"IIRS", "ORF"),
    (0, b"MMOR", "ORF"),
    (0, b"IIU\0", "RW2"),
    (0, b"FOVb", "X3F"),
    (0, b"\0MRM", "MRW"),
)
# Most of them are TIFF files whose first page is a small preview, which must not be taken for the picture.
RAW_SUFFIXES = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq", ".k25", ".kdc", ".mef"}
    | {".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"}
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
    (0, b"version https://git-lfs", "a pointer of Git LFS: `git lfs pull` fetches the picture"),
    (0, b"{\\rtf", "a text document (RTF)"),
)
TEXTS = ((rb"<svg[\s>]", "SVG"), (rb"<!doctype html|<html|<head|<body", "a web page (HTML)"), (rb"\s*<\?xml", "XML"))


def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read here, those of the extra `heic` where it is installed."""
    return FORMATS + plugins()


def not_a_picture(path: Path) -> str:
    """What a file is that no reader takes, as the end of a sentence that begins with its name."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
    if not head:
        return "is empty"
    if raw := _named(RAW, head) or _raw_suffix(path, head):
        return camera_raw(raw)
    if optional := _named(OPTIONAL, head):
        return f"is {optional}: {INSTALL}" if _lacks(optional) else f"is {optional}, but damaged"
    if picture := _named(PICTURES, head):
        return f"is {picture}, but damaged or of a kind that is not read"
    return f"is {_named(OTHERS, head) or _text(head) or 'not a picture of a known format'}"


def camera_raw(kind: str) -> str:
    """The fault of a camera's raw file."""
    return f"is a camera's raw file ({kind}): convert it to JPEG or TIFF, as with darktable or RawTherapee"


def _named(magic: Magic, head: bytes) -> str | None:
    return next((name for offset, start, name in magic if head.startswith(start, offset)), None)


def _raw_suffix(path: Path, head: bytes) -> str | None:
    tiff = _named(PICTURES, head) in ("TIFF", None)
    return path.suffix[1:].upper() if tiff and path.suffix.lower() in RAW_SUFFIXES else None


def _lacks(kind: str) -> bool:
    return ("HEIF" if kind == "HEIC" else "JXL") not in plugins()


def _text(head: bytes) -> str | None:
    """What kind of text a file begins with, if it is text."""
    markup = next((name for pattern, name in TEXTS if re.search(pattern, head, re.IGNORECASE)), None)
    if markup or not head.isascii():
        return markup
    return "text" if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head) else None
