"""The processes that work on a stage: the dvc that makes its outs, and the ancestors of this process.

DVC writes to ``.dvc/tmp/rwlock`` which process reads and writes which paths. So a stage can see the deps that DVC
uses for it; DVC has read them at the start of `dvc repro`, perhaps hours ago.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

TABLE = Path(".dvc", "tmp", "rwlock")


@dataclass(frozen=True)
class Holder:
    """A dvc process that makes a path, and the real paths of the files that it reads for that."""

    pid: int
    command: str
    reads: frozenset[str]

    @property
    def lives(self) -> bool:
        """Whether the process still runs, and is not a later process with the same number."""
        return lives(self.pid, self.command)


def holder_of(path: str) -> Holder | None:
    """The dvc process that makes ``path``, from DVC's table; None if the table has none or cannot be read."""
    for root in dict.fromkeys([os.environ.get("DVC_ROOT", "."), "."]):
        table = _read(Path(root) / TABLE)
        writing, reading = table.get("write", {}), table.get("read", {})
        for place, info in writing.items():
            if os.path.realpath(place) == os.path.realpath(path):
                read = _read_by(info["pid"], reading) - set(writing)
                return Holder(info["pid"], info["cmd"], frozenset(map(os.path.realpath, read)))
    return None


def _read_by(pid: int, reading: Mapping[str, Sequence[Mapping[str, Any]]]) -> set[str]:
    """The paths that a process reads, from DVC's table. Entries that are not absolute paths are git references."""
    paths = set()
    for path, infos in reading.items():
        if os.path.isabs(path) and any(info["pid"] == pid for info in infos):
            paths.add(path)
    return paths


def lives(pid: int, command: str = "") -> bool:
    """Whether a process runs, and was started with the arguments in ``command`` (if the system shows them).

    A zombie counts as ended: in a container whose first process does not reap zombies, it would stay forever.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        words = process.cmdline()
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True
    return set(command.split()[1:]) <= set(words)


def above(pid: int | None) -> list[psutil.Process]:
    """The ancestors of this process up to ``pid``; only the parent if ``pid`` is None or not an ancestor."""
    try:
        chain: list[psutil.Process] = psutil.Process().parents()
    except psutil.Error:
        return []
    numbers = [process.pid for process in chain]
    return chain[: numbers.index(pid) + 1] if pid in numbers else chain[:1]


def gone(processes: Sequence[psutil.Process]) -> psutil.Process | None:
    """The first of these processes that has ended; None if all run."""
    return next((process for process in processes if _ended(process)), None)


def _ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def _read(file: Path) -> dict[str, Any]:
    """DVC's table. If another dvc is writing it at this moment, reading is tried again."""
    for _ in range(5):
        try:
            table = json.loads(file.read_text(encoding="utf-8"))
            return table if isinstance(table, dict) else {}
        except ValueError:
            time.sleep(0.05)
        except OSError:
            break
    return {}
