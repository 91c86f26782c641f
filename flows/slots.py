"""Limit how many stages run at once on this machine: a slot is a locked file, whose lock the stage's process inherits.

The kernel drops the lock when the last process that holds it ends, for whatever reason: no slot is ever lost, and a
stage that outlives its flow keeps its slot until it is done.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Event, Lock

from etude.watch.locks import locked
from flows.process import POLL


class StoppedError(Exception):
    """The flow is being stopped: this stage no longer waits or runs."""


class Slots:
    """The slots whose files are in one folder. The most urgent of this process's threads gets the next slot."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._guard, self._tickets = Lock(), count()
        self._waiting: defaultdict[str, set[tuple[float, int]]] = defaultdict(set)

    def __reduce__(self) -> tuple[type[Slots], tuple[Path]]:
        return Slots, (self.folder,)

    @contextmanager
    def take(self, kind: str, number: int, stopping: Event, urgency: float = 0.0) -> Iterator[tuple[int, int]]:
        """Wait for one of `number` slots of a kind; yields its number, and the descriptor that a child must inherit.

        Raises StoppedError when `stopping` is set first.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        files = [os.open(self.folder / f"{kind}-{n}.lock", os.O_RDWR | os.O_CREAT, 0o644) for n in range(number)]
        ticket = (-urgency, next(self._tickets))
        try:
            with self._guard:
                self._waiting[kind].add(ticket)
            try:
                taken = self._wait(kind, ticket, files, stopping)
            finally:
                with self._guard:
                    self._waiting[kind].remove(ticket)
            yield taken, files[taken]
        finally:
            for file in files:
                os.close(file)

    def _wait(self, kind: str, ticket: tuple[float, int], files: list[int], stopping: Event) -> int:
        while True:
            with self._guard:
                first = min(self._waiting[kind]) == ticket
            if first and (free := next((n for n, file in enumerate(files) if locked(file)), None)) is not None:
                return free
            if stopping.wait(POLL):
                raise StoppedError
