"""Random numbers as a pure function of seed and step, so that a resumed run gets the same as an uninterrupted one."""

from __future__ import annotations

import hashlib
import os

import torch


def mix(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part: ``mix(seed, "order", epoch)``."""
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded with `mix`."""
    return torch.Generator().manual_seed(mix(*parts))


def make_deterministic(threads: int) -> None:
    """Make equal inputs give equal results, to the bit: deterministic kernels, and a fixed number of threads.

    The number of threads matters because it changes the order of additions.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # CUDA needs this to be deterministic
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
