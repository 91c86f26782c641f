"""The caption of a mirrored picture."""

from __future__ import annotations

import re

SIDES = re.compile(r"\b(left|right)(?=(?:most|wards?|[- ]?hand(?:ed)?)?\b)", re.IGNORECASE)
OTHER = {"left": "right", "right": "left"}


def mirror(text: str) -> str:
    """``text`` with left and right exchanged, with their upper or lower case; the rest does not change."""
    return SIDES.sub(lambda match: _as(match[0], OTHER[match[0].lower()]), text)


def _as(model: str, word: str) -> str:
    if model.isupper():
        return word.upper()
    return word.capitalize() if model[0].isupper() else word
