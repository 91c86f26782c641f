"""How to stop a group of processes."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import psutil

POLL = 0.1  # seconds between two checks of something that another process changes


def stop_group(group: int, grace: float, leader: subprocess.Popen[bytes] | None = None) -> None:
    """Ask every process of a group to end, kill those that run after `grace` seconds, and wait for `leader`."""
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 2.0)):
        if not _signal(group, number):
            break
        end = time.monotonic() + patience
        while group_lives(group) and time.monotonic() < end:
            time.sleep(POLL)
            if leader is not None:
                leader.poll()
        if not group_lives(group):
            break
    if leader is not None:
        leader.wait()


def group_lives(group: int) -> bool:
    """Whether a process of this group still runs."""
    if not _signal(group, 0):
        return False
    return any(_runs_in(process, group) for process in psutil.process_iter())


def _runs_in(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.Error):  # it ended while we looked
        return False


def _signal(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
