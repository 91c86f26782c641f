"""A caption among the fields of a JSON object or of a row, under the names that programs give it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# text: Hugging Face's scripts and datasets; caption: kohya, ai-toolkit, musubi-tuner; prompt: generators;
# description: Google Photos
CAPTIONS = ("text", "caption", "prompt", "description")
TAGS = "tags"  # kohya's taggers, gallery-dl


def caption_of(fields: Mapping[str, Any]) -> str | None:
    """The caption, a comma and the tags, as kohya joins them. Of a list of captions, the first is taken.

    None if there is neither, or if they are empty: cameras and sites write empty descriptions.
    """
    captions = (_text(fields.get(key), first=True) for key in CAPTIONS)
    caption = next(filter(None, captions), None)
    parts = filter(None, [caption, _text(fields.get(TAGS), first=False)])
    return ", ".join(parts) or None


def _text(value: object, first: bool) -> str | None:
    """A text, or the texts of a list: ``first`` takes the first of them, otherwise all are joined by commas."""
    if isinstance(value, list):
        texts = [entry for entry in value if isinstance(entry, str)]
        value = ", ".join(texts[:1] if first else texts)
    return " ".join(value.split()) if isinstance(value, str) else None
