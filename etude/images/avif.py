"""AVIF and HEIC: what their boxes say about the picture, but Pillow does not apply (ISO/IEC 14496-12 and 23008-12)."""

from __future__ import annotations

from pathlib import Path

from PIL.ImageFile import ImageFile

from etude.core.boxes import described_profile, has_property
from etude.core.errors import UnusableError

WINDOW = b"clap"  # clean aperture: only a part of the coded picture is to be shown


def refuse_misread(path: Path, image: ImageFile) -> None:
    """Raise UnusableError for a file whose pixels Pillow shows differently from what the file says."""
    if image.format == "AVIF" and has_property(path, WINDOW):
        raise UnusableError("says that only a part of its pixels is to be shown (clap), which Pillow ignores")
    if "icc_profile" not in image.info:  # a profile has precedence over codes
        described_profile(path)
