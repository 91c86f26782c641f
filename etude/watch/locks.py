"""Locks on open files: the one place that knows how each system locks."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from etude.core.errors import InputError

_POLL = 0.05  # seconds between two tries
_FAR = 1 << 30  # the byte that Windows locks: beyond any content, which others may still read


def locked(file: int) -> bool:
    """Try to lock an open file for as long as it, or a copy that a child inherited, stays open.

    The kernel drops the lock when the last process that holds it ends, however it ends. Raises InputError where the
    file system has no locks.
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
    """Hold the lock of a file, which is made, for the block; whoever has it now is waited for."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while not locked(file):
            time.sleep(_POLL)
        yield
    finally:
        os.close(file)
