"""The content-addressed store ``.cache/``: a result is not computed again from the same bytes.

A key contains everything that a result depends on, so an entry can be missing but never stale. The store can be
deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from etude.core.files import atomic_path, sha256_file, tree_digest, tree_files

Part = str | int | float | bool | bytes | None | Sequence["Part"] | Mapping[str, "Part"]

SETTLED = 3.0  # seconds, longer than the time resolution of any common file system
REMEMBERED = 1 << 20  # bytes: digests of larger files are cached


def key(*parts: Part) -> str:
    """Hex SHA-256 of a canonical form of ``parts``: (1, "a") and ("1a",) differ, the order of mappings is ignored."""
    return _digest(_ENCODER.encode(parts).encode())


def _bytes(value: object) -> str:
    if isinstance(value, bytes):
        return "bytes:" + hashlib.sha256(value).hexdigest()
    raise TypeError(f"{type(value).__name__} cannot be part of a key")


_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, default=_bytes)  # one for all keys of a set


class Store:
    """One kind of entry, such as ``latents``: a folder of files named by their key."""

    def __init__(self, kind: str, root: Path | str = ".cache") -> None:
        self.folder = Path(root) / kind

    def path(self, name: str, suffix: str = ".safetensors") -> Path:
        """The path of the entry with this key, which may not exist. Write it with `atomic_path` or `write_tensors`."""
        return Path(f"{self.folder}/{name[:2]}/{name}{suffix}")  # a third of the time of joining paths


def save(place: Path, data: Part) -> None:
    """Write ``data`` as the entry at ``place``, with its digest. `load` detects damage by a power failure."""
    text = json.dumps(data, ensure_ascii=False)
    with atomic_path(place, durable=False) as temporary:
        temporary.write_text(f"{_digest(text.encode())} {text}", encoding="utf-8", newline="")


def load(place: Path) -> Any:
    """The data of the entry at ``place``; None if it is missing or damaged."""
    try:
        digest, _, text = place.read_bytes().partition(b" ")
    except FileNotFoundError:
        return None
    return json.loads(text.decode()) if digest == _digest(text).encode() else None


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def remembered(file: Path, digest: Callable[[Path], str] = sha256_file, kind: str | None = None) -> str:
    """The ``digest`` of a file; for large files it is cached in ``.cache/digests``, as hashing gigabytes takes seconds.

    The key contains ``kind`` and the file's path, size, inode and both times. An entry is never stale: the change time
    cannot be set back, and the digest of a file that was changed in the last seconds is not cached, because a further
    write might not change its times.
    """
    stat = os.stat(file)  # a third of the time of Path.stat()
    if (cached := recalled(file, stat, kind)) is not None:
        return cached
    new = digest(file)
    if stat.st_size >= REMEMBERED and is_settled(stat, time.time_ns()) and _times(file.stat()) == _times(stat):
        save(_entry(file, stat, kind), new)
    return new


def remembered_tree(path: Path | str) -> str:
    """The digest of `sha256_tree`; the digests of large files are cached. Raises InputError if ``path`` is missing."""
    return tree_digest({name: remembered(file) for name, file in tree_files(path).items()})


def recalled(file: Path, stat: os.stat_result, kind: str | None = None) -> str | None:
    """The cached digest of a file with this stat; None if there is none."""
    return None if stat.st_size < REMEMBERED else load(_entry(file, stat, kind))


def is_settled(stat: os.stat_result, now: int) -> bool:
    """Whether any write after ``now`` (nanoseconds) would change the times of this stat."""
    return now - max(_times(stat)) > SETTLED * 1e9


def _times(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_mtime_ns, stat.st_ctime_ns


def _entry(file: Path, stat: os.stat_result, kind: str | None) -> Path:
    identity = (str(file.resolve()), stat.st_size, stat.st_ino, stat.st_dev, *_times(stat))
    return Store("digests").path(key("digest", kind, *identity), ".entry")
