"""Locks on open files: the one place that knows how each system locks."""

from __future__ import annotations

import os
import sys

_FAR = 1 << 30  # the byte that Windows locks: beyond any content, which others may still read


def locked(file: int) -> bool:
    """Try to lock an open file for as long as it, or a copy that a child inherited, stays open.

    The kernel drops the lock when the last process that holds it ends, however it ends.
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
    return True
