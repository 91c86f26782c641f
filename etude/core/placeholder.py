"""``[name]`` in a text: the place of the word for what is learned."""

from __future__ import annotations

NAME = "[name]"


def insert_name(text: str, name: str) -> str:
    """``text`` with ``name`` in every place of ``[name]``, and nothing else changed."""
    return text.replace(NAME, name)


def fill(text: str, name: str) -> str:
    """The same as a prompt to draw: white space is one space, so that an empty name leaves no gap."""
    return " ".join(insert_name(text, name).split())
