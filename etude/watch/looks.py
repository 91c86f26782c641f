"""A look records the inputs of a stage at one moment; later it can be checked whether they are still the same.

First the stat of a file is compared. Its content is compared only if the stat differs, or if the stat proves nothing
because the file was written shortly before the look. For large files this needs a cached digest; without one, a
changed stat counts as a changed file.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from etude.core.errors import EtudeError, InputError, StaleError
from etude.core.files import read_json, sha256_file, tree_digest, tree_names, write_json
from etude.core.params import read_yaml
from etude.core.store import REMEMBERED, is_settled, recalled, remembered

SHOWN = 5  # changes named in an error
MISSING, UNREADABLE = "(missing)", "(cannot be read)"
V = TypeVar("V")
Params = Mapping[str, Sequence[str]]  # file → keys, with dots for those inside; no keys: the whole file


@dataclass
class FileState:
    """A file at one moment, by its stat (times in ns). If `settled`, any later write changes the stat."""

    size: int
    inode: int
    modified: int
    changed: int
    links: int
    settled: bool
    digest: str | None = None

    def alike(self, now: os.stat_result) -> bool:
        """Whether a stat proves that the file is still the same.

        The change time of a file with several hard links is ignored: it changes when another link is made or removed.
        """
        same = (self.size, self.inode, self.modified) == (now.st_size, now.st_ino, now.st_mtime_ns)
        linked = self.links > 1 or now.st_nlink > 1
        return self.settled and same and (linked or self.changed == now.st_ctime_ns)


class Look:
    """The files below ``paths`` and the values of ``params``, both relative to ``root``, as they are now."""

    def __init__(self, paths: Iterable[str] = (), params: Params | None = None, root: Path | str = ".") -> None:
        self.root, self.params = Path(root), dict(params or {})
        self._files: dict[str, dict[str, FileState] | None] = {}
        self._sources = {file: _see(self.root / file) for file in self.params if (self.root / file).is_file()}
        self._values = {file: values_of(self.root / file, keys) for file, keys in self.params.items()}
        self.add(paths)

    def add(self, paths: Iterable[str]) -> None:
        """Look at more files and folders."""
        for path in paths:
            if path not in self._files:
                names = self._found(path)
                place = self._place(path)
                self._files[path] = None if names is None else {name: _see(_file(place, name)) for name in names}

    def digests(self) -> dict[str, str]:
        """The digest of each path, as by `sha256_tree`; raises InputError if one is missing."""
        return {path: self._digest(path, states) for path, states in self._files.items()}

    def changed(self) -> list[str]:
        """All changes since the look: files, and parameters with both values."""
        return [*self.changed_params(), *self.changed_files()]

    def changed_files(self) -> list[str]:
        """The files that were changed, added or removed since the look."""
        return sorted({place for path, states in self._files.items() for place in self._differences(path, states)})

    def changed_params(self) -> list[str]:
        """The parameters that were changed since the look, or can no longer be read."""
        files = [file for file in self.params if not _same(self._sources.get(file), self.root / file)]
        return self.other_params({file: values_of(self.root / file, self.params[file]) for file in files})

    def other_params(self, values: Mapping[str, Any]) -> list[str]:
        """The parameters whose value in ``values`` (by file) differs from the look's."""
        pairs = {file: (self._values.get(file), plain(now)) for file, now in values.items()}
        return [f"{file}: {line}" for file, pair in pairs.items() for line in _list_changes(*pair)]

    def refuse_changed(self) -> None:
        """Raise StaleError if anything has changed since the look."""
        refuse(self.changed())

    def write(self, path: Path) -> None:
        """Save this look, for another process to compare."""
        files = {place: None if states is None else _map(vars, states) for place, states in self._files.items()}
        data = {"params": self.params, "sources": _map(vars, self._sources), "values": self._values, "files": files}
        write_json(path, data, indent=None)

    @classmethod
    def read(cls, path: Path, root: Path) -> Self:
        """A saved look."""
        data, look = read_json(path), cls(root=root)
        look.params, look._values = data["params"], data["values"]
        look._sources = _map(lambda one: FileState(**one), data["sources"])
        for place, states in data["files"].items():
            look._files[place] = None if states is None else _map(lambda one: FileState(**one), states)
        return look

    def _found(self, path: str) -> list[str] | None:
        try:
            return tree_names(self.root / path)
        except InputError:
            return None

    def _place(self, path: str) -> str:
        return os.path.join(self.root, path)

    def _digest(self, path: str, states: Mapping[str, FileState] | None) -> str:
        if states is None:
            raise InputError(path, "is missing", "run `dvc repro` so that the stage that makes it runs first")
        for name, one in states.items():
            one.digest = one.digest or remembered(Path(_file(self._place(path), name)))
        return tree_digest({name: one.digest or "" for name, one in states.items()})

    def _differences(self, path: str, states: Mapping[str, FileState] | None) -> list[str]:
        names = self._found(path)
        if states is None or names is None:
            return [path] if states is not None or names is not None else []
        place, others = self._place(path), states.keys() ^ set(names)
        others |= {name for name in states.keys() - others if not _same(states[name], _file(place, name))}
        return [(Path(path) / name).as_posix() for name in others]


def refuse(changes: Sequence[str]) -> None:
    """Raise StaleError with the first of these changes, if there are any."""
    if changes:
        more = f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
        raise StaleError(", ".join(changes[:SHOWN]) + more, "changed while this stage ran", "run `dvc repro` again")


def receipt(name: str) -> Path:
    """The file to which a stage saves its look; ``name`` is DVC's address of the stage from the root."""
    return Path(".scratch", "seen", f"{name.replace(':', '/')}.json")


def values_of(file: Path, keys: Sequence[str]) -> Any:
    """The values of some keys of a params file, or of the whole file; UNREADABLE if it cannot be read."""
    try:
        data = read_yaml(file)
    except (EtudeError, OSError):
        return UNREADABLE
    return plain({key: _at(data, key) for key in keys} if keys else data)


def plain(value: Any) -> Any:
    """A value as it is after writing and reading JSON; values that JSON cannot represent become texts."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | None) else str(value)


def _at(data: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(data, Mapping) or part not in data:
            return MISSING
        data = data[part]
    return data


def _list_changes(before: Any, now: Any, key: str = "") -> list[str]:
    """Each difference of two plain values, with its key; 1, 1.0 and true differ."""
    if json.dumps(before, sort_keys=True) == json.dumps(now, sort_keys=True):
        return []
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        pairs = {name: (before.get(name, MISSING), now.get(name, MISSING)) for name in {**before, **now}}
        return [line for name, pair in pairs.items() for line in _list_changes(*pair, f"{key}.{name}".lstrip("."))]
    change = f"{_short(before)} → {_short(now)}"
    return [f"{key} ({change})" if key else change]


def _short(value: Any) -> str:
    text = value if value in (MISSING, UNREADABLE) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _map(function: Callable[[Any], V], mapping: Mapping[str, Any]) -> dict[str, V]:
    return {key: function(value) for key, value in mapping.items()}


def _file(place: str, name: str) -> str:
    """The file ``name`` of `tree_names` at ``place``, as a text: a set has many."""
    return f"{place}/{name}" if name else place


def _see(file: Path | str) -> FileState:
    stat = os.stat(file)
    settled = is_settled(stat, time.time_ns())
    if stat.st_size < REMEMBERED:
        digest: str | None = sha256_file(file)
    else:
        digest = recalled(Path(file), stat) if settled else remembered(Path(file))
    return FileState(stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_nlink, settled, digest)


def _same(state: FileState | None, file: Path | str) -> bool:
    if state is None:
        return False
    try:
        return state.alike(os.stat(file)) or (state.digest is not None and sha256_file(file) == state.digest)
    except OSError:  # it was removed just now
        return False
