"""Placeholders in texts: ``[name]`` for the word that is learned, and two names for the caption of a picture."""

from __future__ import annotations

NAME = "[name]"
CAPTION, FILEWORDS = PLACES = ("[caption]", "[filewords]")  # ours, and A1111's


def insert_name(text: str, name: str) -> str:
    """``text`` with every ``[name]`` replaced by ``name``, and nothing else changed."""
    return text.replace(NAME, name)


def fill(text: str, name: str) -> str:
    """The same for a prompt to draw: each run of white space becomes one space, so that an empty name leaves no gap."""
    return " ".join(insert_name(text, name).split())
