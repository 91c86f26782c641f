"""Work on all cores: the same function for many items, in processes, with the results in the order of the items."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from math import ceil
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TypeVar

from etude.core.errors import OutOfMemoryError

T = TypeVar("T")
R = TypeVar("R")
TRIAL = 1.0  # seconds of work in this process, which show how long the rest would take
PAYS = 3.0  # seconds that the rest must take: a worker needs about half a second to start
CHUNK = 8  # items sent to a worker at once
AHEAD = 3  # chunks of each worker that are sent before the first result is taken: memory stays flat
MOST_ON_WINDOWS = 61  # processes that one process can wait for on Windows, without those that Python needs itself
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: time of all cores per period, and the period, in microseconds


def cores() -> int:
    """The processor cores that `in_order` uses: those of the machine, its affinity and its container."""
    if sys.platform == "win32":
        return min(os.cpu_count() or 1, MOST_ON_WINDOWS)
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = QUOTA.read_text().split()
    except (OSError, ValueError):
        return found
    return found if quota == "max" else max(1, min(found, ceil(int(quota) / int(period))))


def in_order(work: Callable[[T], R], items: Sequence[T]) -> Generator[R, None, None]:
    """``work(item)`` of each item, in their order; an exception ends all.

    The first items are worked on in this process, and the rest, if it takes seconds, in one process for each core.
    ``work`` and its results must be picklable. Processes are spawned on every system, as on Windows: a fork would copy
    the locks of this process's threads. They never outlive this process, however it ends. A reader of the results that
    can fail reads them within `contextlib.closing`, which then ends the processes.
    """
    count, began = cores(), time.monotonic()
    for number, item in enumerate(items):
        passed = time.monotonic() - began
        if count > 1 and passed > TRIAL and passed * (len(items) - number) > PAYS * number:
            yield from _by_workers(work, items[number:], count)
            return
        yield work(item)


def _by_workers(work: Callable[[T], R], items: Sequence[T], count: int) -> Generator[R, None, None]:
    chunks = deque(items[start : start + CHUNK] for start in range(0, len(items), CHUNK))
    sent: deque[Future[list[R]]] = deque()
    executor = ProcessPoolExecutor(count, get_context("spawn"), _start)
    try:
        while chunks or sent:
            while chunks and len(sent) < count * AHEAD:
                sent.append(executor.submit(_work, work, chunks.popleft()))
            yield from sent.popleft().result()
    except BrokenProcessPool:
        fault = "a process that did a part of the work was killed, as happens when memory runs out"
        action = "close other programs that use memory, and run this again: it continues from what is saved"
        raise OutOfMemoryError("workers", fault, action) from None
    finally:
        executor.shutdown(cancel_futures=True)


def _work(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    return [work(item) for item in items]


def _start() -> None:
    """Prepare a worker: it ignores Ctrl-C, which a terminal sends to every process, and ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)
