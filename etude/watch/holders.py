"""Who is at work on a stage: the dvc that makes its outs, and the processes that began this one.

DVC notes in ``.dvc/tmp/rwlock`` which process reads and writes which paths. There a stage sees what DVC took its deps
to be, which was read when `dvc repro` began, hours ago perhaps.
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
    """A dvc that makes a path: its process, and the real paths of what it reads for that."""

    pid: int
    command: str
    reads: frozenset[str]

    @property
    def lives(self) -> bool:
        """Whether it still runs, and is no later process that was given the same number."""
        return lives(self.pid, self.command)


def holder_of(path: str) -> Holder | None:
    """The dvc that DVC's table says makes ``path``; None where it says nothing, or cannot be read."""
    for root in dict.fromkeys([os.environ.get("DVC_ROOT", "."), "."]):
        table = _read(Path(root) / TABLE)
        writing, reading = table.get("write", {}), table.get("read", {})
        for place, info in writing.items():
            if os.path.realpath(place) == os.path.realpath(path):
                read = _read_by(info["pid"], reading) - set(writing)
                return Holder(info["pid"], info["cmd"], frozenset(map(os.path.realpath, read)))
    return None


def _read_by(pid: int, reading: Mapping[str, Sequence[Mapping[str, Any]]]) -> set[str]:
    """The paths that a process reads, after DVC's table; what is not absolute is the name of a git reference."""
    paths = set()
    for path, infos in reading.items():
        if os.path.isabs(path) and any(info["pid"] == pid for info in infos):
            paths.add(path)
    return paths


def lives(pid: int, command: str = "") -> bool:
    """Whether a process runs, and was started with the arguments in ``command`` where the system tells.

    A zombie does not run: where the first process of a container reaps nobody it would live for ever.
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
    """The processes above this one up to ``pid``; without it, or where it is not above, the nearest alone."""
    try:
        chain: list[psutil.Process] = psutil.Process().parents()
    except psutil.Error:
        return []
    numbers = [process.pid for process in chain]
    return chain[: numbers.index(pid) + 1] if pid in numbers else chain[:1]


def gone(processes: Sequence[psutil.Process]) -> psutil.Process | None:
    """The first of these that has ended."""
    return next((process for process in processes if _ended(process)), None)


def _ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def _read(file: Path) -> dict[str, Any]:
    """DVC's table. Another dvc may be writing it at this moment: then once more."""
    for _ in range(5):
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            return found if isinstance(found, dict) else {}
        except ValueError:
            time.sleep(0.05)
        except OSError:
            break
    return {}
