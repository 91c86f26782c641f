"""Random numbers as a pure function of seed and step, so that a resumed run gets the same as one without a stop."""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def mix(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part: ``mix(seed, "order", epoch)``."""
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded with `mix`."""
    return torch.Generator().manual_seed(mix(*parts))


def seed_generators(seed: int, device: str) -> None:
    """Seed torch's global generators of the CPU and of ``device``: cpu, cuda, mps …

    torch.manual_seed seeds every kind of device, and formats a traceback for each kind that is not in use.
    """
    if device == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def make_deterministic(threads: int, *, strict: bool = False) -> None:
    """Make equal inputs give equal results, to the bit: deterministic kernels, and a fixed number of threads.

    The number of threads matters because it changes the order of additions. With ``strict``, an operation without a
    deterministic kernel raises RuntimeError; otherwise torch warns, and attention's gradients on a GPU are not the same
    from run to run: torch then uses faster kernels for them.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # CUDA needs this to be deterministic
    torch.set_num_threads(threads)
    with _uncollected():
        torch.use_deterministic_algorithms(True, warn_only=not strict)
    # torch would fill each new tensor with NaN, to reveal reads of uninitialised memory: 3 to 6 % of a step
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector, which takes a third of the time in which torch imports its compiler."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def allow_any_kernels(threads: int) -> None:
    """Let torch take the fastest kernels: equal inputs give results that may differ in their last digits."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = True
