"""Settings of taggers for tests: kohya's defaults."""

from __future__ import annotations

from typing import Any

from etude.captions.tags import Tags

KOHYA: dict[str, Any] = {
    "general": 0.35,
    "character": 0.35,
    "deepdanbooru": 0.5,
    "resize": "area",
    "categories": ["general", "character"],
    "rating": "none",
    "undesired": [],
    "replacements": {},
    "expand": False,
    "underscores": "kohya",
    "escape": "none",
    "order": "table",
    "characters": "last",
    "first": [],
    "ranks": False,
    "limit": 0,
    "batch": 3,
}


def tags(**changed: Any) -> Tags:
    return Tags(**{**KOHYA, **changed})
