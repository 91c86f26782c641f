"""Which kinds of files are read as pictures, and what the others are."""

from __future__ import annotations

from pathlib import Path

from etude.core.magic import PICTURES, POINTER, Magic, anything_else, named, read_head
from etude.core.pictures import plugins

# A fixed list: some of Pillow's other readers accept files that are no pictures, and some run programs.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "QOI", "ICO")
INSTALL = "run `make setup EXTRAS=heic` to read it"

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


def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read here, with those of the extra `heic` if it is installed."""
    return FORMATS + plugins()


def not_a_picture(path: Path) -> str:
    """What a file is that no reader accepts, as the end of a sentence that begins with its name."""
    head = read_head(path)
    if not head:
        return "is empty"
    if raw := named(RAW, head) or _raw_suffix(path, head):
        return camera_raw(raw)
    if optional := named(OPTIONAL, head):
        return f"is {optional}: {INSTALL}" if _lacks(optional) else f"is {optional}, but damaged"
    if picture := named(PICTURES, head):
        return f"is {picture}, but damaged, or of a kind that is not supported"
    if head.startswith(POINTER):
        return "is a pointer of Git LFS: `git lfs pull` fetches the picture"
    return f"is {anything_else(head) or 'not a picture of a known format'}"


def camera_raw(kind: str) -> str:
    """The fault of a camera's raw file."""
    return f"is a camera's raw file ({kind}): convert it to JPEG or TIFF, as with darktable or RawTherapee"


def _raw_suffix(path: Path, head: bytes) -> str | None:
    tiff = named(PICTURES, head) in ("TIFF", None)
    return path.suffix[1:].upper() if tiff and path.suffix.lower() in RAW_SUFFIXES else None


def _lacks(kind: str) -> bool:
    return ("HEIF" if kind == "HEIC" else "JXL") not in plugins()
