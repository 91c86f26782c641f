"""What *prepare* writes of each training picture: its entry in ``images.json``, and its mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EVEN = 127  # of 255: a mask of this grey everywhere has the same effect as no mask


def is_copy(entry: Mapping[str, Any]) -> bool:
    """Whether an entry is a copy of another training picture: mirrored, jittered, or of another resolution."""
    return "of" in entry


def original(identifier: str, entry: Mapping[str, Any]) -> str:
    """The id of the picture that an entry is a copy of; ``identifier`` if it is no copy."""
    return str(entry.get("of", identifier))
