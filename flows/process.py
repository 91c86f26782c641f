"""Processes of the system: whether one lives, and how a group of them is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")  # Linux only; elsewhere the few questions it answers get the cautious answer
POLL = 0.1  # seconds between two looks at something that another process decides


def alive(pid: int, command: str = "") -> bool:
    """Whether a process runs and, where the system tells, was started with the arguments in `command`.

    A zombie does not run: in a container whose first process reaps nobody it would otherwise live for ever. The
    arguments tell a process from a later one that was given the same number.
    """
    try:
        os.kill(pid, 0)
        _, state = _stat(pid)
        words = (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    except OSError:
        return not PROC.joinpath("self").exists()
    return state != "Z" and set(command.split()[1:]) <= set(words)


def stop_group(group: int, grace: float, leader: subprocess.Popen[bytes] | None = None) -> None:
    """Ask every process of a group to end, and kill those that live after `grace` seconds. `leader` is waited for."""
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
    return any(of == group and state != "Z" for of, state in _all()) if PROC.joinpath("self").exists() else True


def _signal(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _stat(pid: int) -> tuple[int, str]:
    """Group and state letter of a process. Raises OSError when it is gone or the system has no /proc."""
    state, _, group = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[:3]
    return int(group), state


def _all() -> Iterator[tuple[int, str]]:
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                yield _stat(int(entry.name))
            except OSError:
                continue  # it ended while we looked
