"""Digests of the code that makes a result, for the keys of the store."""

from __future__ import annotations

from pathlib import Path

from etude.core.files import sha256_tree

ROOT = Path(__file__).parent.parent.parent


def code_digests(*places: str) -> dict[str, str]:
    """The digest of the Python code in each of ``places``: folders or files, relative to the repository's root."""
    return {place: sha256_tree(ROOT / place, (".py",)) for place in places}
