"""The code that makes a result, for the keys of the store: digests of Étude's own files, and versions of packages."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from etude.core.files import sha256_tree

ROOT = Path(__file__).parent.parent.parent


def code_digests(*places: str) -> dict[str, str]:
    """The digest of the Python code in each of ``places``: folders or files, relative to the repository's root."""
    return {place: sha256_tree(ROOT / place, (".py",)) for place in places}


def versions(*packages: str) -> dict[str, str | None]:
    """The version of each package, by its name in pip's index; None if it is not installed."""
    found: dict[str, str | None] = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
