"""Several processes of one run, one a GPU: `fit` gives each its own batches and averages their gradients.

Loose parameters are no module, so there is nothing to wrap; torch's process group is all that is needed.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

RANK = "RANK"  # what torch.distributed calls the number of a process


def is_main() -> bool:
    """Whether this process is the one that speaks and writes."""
    return os.environ.get(RANK, "0") == "0"


def is_launched() -> bool:
    """Whether this is one of several processes already."""
    return RANK in os.environ


def spread(count: int) -> None:
    """Go on as ``count`` processes of this very command; this one ends when they have. Nothing to do for one."""
    if count > 1 and not is_launched():
        sys.exit(launch(count))


def launch(count: int) -> int:
    """Run this very command once a process, each with a GPU of its own; the first exit code that is not 0, or 0.

    When one fails, the others are stopped: they would wait for it for ever.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shown = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(str(number) for number in range(count))
    meeting = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": "0"}
    meeting |= {"GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo")}
    running = [
        # They inherit the stage's lock, which lasts until the last of them has ended.
        subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]],
            env={**os.environ, **meeting, RANK: str(rank), **seen},
            close_fds=False,
        )
        for rank, seen in enumerate({"CUDA_VISIBLE_DEVICES": device} for device in _devices(shown, count))
    ]
    try:
        while any(process.poll() is None for process in running) and not any(p.poll() for p in running):
            time.sleep(0.2)
    finally:
        for process in running:
            if process.poll() is None:
                process.terminate()
    return next((code for process in running if (code := process.wait()) > 0), 0)


def _devices(shown: str, count: int) -> list[str]:
    """One device a process; on a machine without GPUs the names mean nothing."""
    names = shown.split(",")
    return [names[rank % len(names)] for rank in range(count)]
