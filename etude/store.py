"""The content-addressed store ``.cache/``: what was computed once from the same bytes is not computed again.

A key names everything that a result depends on, so an entry can be missing but never stale. Safe to delete at any time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

Part = str | int | float | bool | bytes | None | Sequence["Part"] | Mapping[str, "Part"]


def key(*parts: Part) -> str:
    """Hex SHA-256 of a canonical form of ``parts``: (1, "a") and ("1a",) differ, mappings count regardless of order."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=_bytes)
    return hashlib.sha256(text.encode()).hexdigest()


def _bytes(value: object) -> str:
    if isinstance(value, bytes):
        return "bytes:" + hashlib.sha256(value).hexdigest()
    raise TypeError(f"{type(value).__name__} cannot be part of a key")


class Store:
    """One kind of entry, such as ``latents``: a folder of files named by their key."""

    def __init__(self, kind: str, root: Path | str = ".cache") -> None:
        self.folder = Path(root) / kind

    def path(self, name: str, suffix: str = ".safetensors") -> Path:
        """Where the entry with this key is, or would be. Write it with `atomic_path` or `write_tensors`."""
        return self.folder / name[:2] / f"{name}{suffix}"
