"""AVIF: what its boxes say of the picture and Pillow does not apply (ISO/IEC 14496-12 and 23008-12)."""

from __future__ import annotations

from pathlib import Path

from etude.core.pictures import UnusableError

WINDOW = b"clap"  # clean aperture: only a part of the coded picture is to be shown
COLOURS = b"colrnclx"  # then two bytes each: primaries, transfer function
HDR = {16: "PQ", 18: "HLG"}  # transfer functions (ITU-T H.273) of high dynamic range


def refuse_misread(path: Path) -> None:
    """Raise UnusableError for a file whose pixels Pillow shows otherwise than the file says."""
    boxes = _metadata(path)
    if WINDOW in boxes:
        raise UnusableError("shows only a part of its pixels (clap), which Pillow does not apply")
    place = boxes.find(COLOURS)
    transfer = int.from_bytes(boxes[place + 10 : place + 12]) if place >= 0 else 0
    if transfer in HDR:
        raise UnusableError(f"is of high dynamic range ({HDR[transfer]}), whose brightness Pillow does not convert")


def _metadata(path: Path) -> bytes:
    """The content of the file's first `meta` box, which holds the properties of its pictures."""
    with open(path, "rb") as file:
        while head := file.read(8):
            size = int.from_bytes(head[:4])
            if size == 1:  # the size is too large for four bytes
                size = int.from_bytes(file.read(8)) - 8
            if head[4:] == b"meta":
                return file.read(size - 8) if size else file.read()
            if size < 8:  # the last box, or damaged
                break
            file.seek(size - 8, 1)
    return b""
