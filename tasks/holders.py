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
ROOT = "DVC_ROOT"


@dataclass(frozen=True)
class Holder:
    """A dvc that makes a path: its process, and what it reads for that, relative to the root."""

    pid: int
    command: str
    reads: frozenset[str]

    @property
    def lives(self) -> bool:
        """Whether it still runs, and is no later process that was given the same number."""
        return lives(self.pid, self.command)


def holder_of(path: str) -> Holder | None:
    """The dvc that DVC's table says makes ``path``; None where it says nothing, or cannot be read."""
    table = _table()
    writing: Mapping[str, Any] = table.get("write", {})
    reading: Mapping[str, Any] = table.get("read", {})
    root = _root()
    info = writing.get(os.path.join(root, path))
    if info is None:
        return None
    pid = info["pid"]
    made = [place for place, one in writing.items() if one["pid"] == pid]
    read = [place for place, many in reading.items() if any(one["pid"] == pid for one in many) and place not in made]
    inside = (Path(place) for place in read if Path(place).is_relative_to(root))  # others are names of git references
    return Holder(pid, info["cmd"], frozenset(place.relative_to(root).as_posix() for place in inside))


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


def _root() -> str:
    """The root as DVC spells it, which may lead through a link."""
    told = os.environ.get(ROOT, "")
    return told if told and os.path.isdir(told) and os.path.samefile(told, os.curdir) else os.getcwd()


def _table() -> dict[str, Any]:
    """DVC's table. Another dvc may be writing it at this moment: then once more."""
    for _ in range(5):
        try:
            found = json.loads(TABLE.read_text(encoding="utf-8"))
            return found if isinstance(found, dict) else {}
        except ValueError:
            time.sleep(0.05)
        except OSError:
            break
    return {}
