"""JPEG 2000: what Pillow misreads."""

from __future__ import annotations

from pathlib import Path

from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

from etude.core.errors import UnusableError

PALETTE = b"pclr"  # a box; the number of its colours is in two bytes


def refuse_misread(image: Jpeg2KImageFile, path: Path) -> None:
    """Raise UnusableError for a palette with equal colours: Pillow counts these once, so that later ones shift."""
    if image.palette is None:
        return
    data = path.read_bytes()
    place = data.find(PALETTE) + len(PALETTE)
    if int.from_bytes(data[place : place + 2]) != len(image.palette.colors):
        raise UnusableError("its palette has equal colours, which Pillow misreads")
