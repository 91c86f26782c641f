"""Settings of taggers for tests: kohya's defaults."""

from __future__ import annotations

from typing import Any

from etude.captions.settings import KOHYA
from etude.captions.tags import Tags


def tags(**changed: Any) -> Tags:
    return Tags(**{**KOHYA, "batch": 3, **changed})
