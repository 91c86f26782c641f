"""Locks on open files, on every system."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from etude.core.errors import InputError

_POLL = 0.05  # seconds between two tries
_FAR = 1 << 30  # the byte that is locked on Windows: after the content, so that others can still read the file


def locked(file: int) -> bool:
    """Try to lock an open file; the lock lasts as long as the file, or a copy inherited by a child, stays open.

    The kernel releases the lock when the last process that has the file open ends, in any way. Raises InputError if
    the file system has no locks.
    """
    if sys.platform == "win32":
        import msvcrt

        os.lseek(file, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # some network file systems
        fault = f"the file system of this checkout cannot lock files ({error.strerror})"
        raise InputError(
            "locks", fault, "move the checkout to a local disk, or mount the file system with locks"
        ) from error
    return True


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Lock a file during the block, after waiting for another process that has the lock; the file is created."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while not locked(file):
            time.sleep(_POLL)
        yield
    finally:
        os.close(file)
