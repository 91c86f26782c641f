"""``[name]`` in a text: a placeholder for the word that is learned."""

from __future__ import annotations

NAME = "[name]"


def insert_name(text: str, name: str) -> str:
    """``text`` with every ``[name]`` replaced by ``name``, and nothing else changed."""
    return text.replace(NAME, name)


def fill(text: str, name: str) -> str:
    """The same for a prompt to draw: each run of white space becomes one space, so that an empty name leaves no gap."""
    return " ".join(insert_name(text, name).split())
