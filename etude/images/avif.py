"""AVIF and HEIC: what their boxes say of the picture and Pillow does not apply (ISO/IEC 14496-12 and 23008-12)."""

from __future__ import annotations

from pathlib import Path

from etude.core.boxes import described_profile, metadata
from etude.core.errors import UnusableError

WINDOW = b"clap"  # clean aperture: only a part of the coded picture is to be shown


def refuse_misread(path: Path, is_avif: bool) -> None:
    """Raise UnusableError for a file whose pixels Pillow shows otherwise than the file says."""
    if is_avif and WINDOW in metadata(path):
        raise UnusableError("shows only a part of its pixels (clap), which Pillow does not apply")
    described_profile(path)
