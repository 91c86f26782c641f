"""Several processes of one run, one for each GPU: `fit` gives each its own batches and averages their gradients.

The parameters are separate tensors, not a module that DDP could wrap; torch's process group is enough.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

RANK = "RANK"  # the environment variable of torch.distributed for the number of a process
OURS = "ETUDE_PROCESSES"  # set if we started this process: RANK alone may come from a cluster's scheduler
# If one of these is set, accelerate expects several processes: torch's variables, and those of MPI's launchers.
_TORCH = (RANK, "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
DISTRIBUTED = (*_TORCH, "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def is_main() -> bool:
    """Whether this is the process that prints and writes files."""
    return not is_launched() or os.environ.get(RANK, "0") == "0"


def is_launched() -> bool:
    """Whether this process was started by `launch`, as one of several."""
    return OURS in os.environ


def forget_scheduler() -> None:
    """Remove a scheduler's variables: with them, accelerate would wait for processes that nobody starts. Ours stay."""
    if not is_launched():
        for name in DISTRIBUTED:
            os.environ.pop(name, None)


def spread(count: int) -> None:
    """Run this command again in ``count`` processes, and exit when they have ended. Does nothing for one process."""
    forget_scheduler()
    if count > 1 and not is_launched():
        sys.exit(launch(count))


def launch(count: int) -> int:
    """Run this command in ``count`` processes, each with its own GPU; returns the first exit code that is not 0, or 0.

    If one fails, the others are stopped, because they would wait for it forever. torchrun is not used, because its
    processes do not inherit the lock of the stage: if only torchrun were killed, they would continue to write to a
    folder that looks free.
    """
    shown = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(str(number) for number in range(count))
    common = {**os.environ, **_meeting(count)}
    running = []
    for rank, device in enumerate(_devices(shown, count)):
        env = {**common, RANK: str(rank), "CUDA_VISIBLE_DEVICES": device}
        running.append(subprocess.Popen([sys.executable, *sys.orig_argv[1:]], env=env, close_fds=False))
    try:
        while any(process.poll() is None for process in running) and not any(p.poll() for p in running):
            time.sleep(0.2)
    finally:
        for process in running:
            if process.poll() is None:
                process.terminate()
    codes = [process.wait() for process in running]
    return next((code for code in codes if code > 0), 0)


def _meeting(count: int) -> dict[str, str]:
    """Environment variables with the address at which the processes of one run connect: a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    network = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": network}
    return {**address, OURS: str(count), "WORLD_SIZE": str(count), "LOCAL_RANK": "0"}


def _devices(shown: str, count: int) -> list[str]:
    """One device for each process; on a machine without GPUs the names have no effect."""
    names = shown.split(",")
    return [names[rank % len(names)] for rank in range(count)]
