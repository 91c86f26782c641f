"""At most N at once on this machine: a slot is a locked file, and the process that works in it inherits the lock.

The kernel drops the lock when the last process holding it ends, however it ends: no slot is ever leaked, and a stage
that outlives its flow keeps its slot until it is done.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from flows.process import POLL


class StoppedError(Exception):
    """The flow is being stopped: what was waiting or running has been given up."""


def locked(file: int) -> bool:
    """Try to lock an open file for as long as it, or a copy that a child inherited, stays open."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def slot(folder: Path, kind: str, count: int, stopping: Event) -> Iterator[tuple[int, int]]:
    """Wait for one of `count` slots of a kind; gives its number and the descriptor that a child must inherit.

    Raises StoppedError when `stopping` is set first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [os.open(folder / f"{kind}-{number}.lock", os.O_RDWR | os.O_CREAT, 0o644) for number in range(count)]
    try:
        while (number := next((n for n, file in enumerate(files) if locked(file)), None)) is None:
            if stopping.wait(POLL):
                raise StoppedError
        yield number, files[number]
    finally:
        for file in files:
            os.close(file)
