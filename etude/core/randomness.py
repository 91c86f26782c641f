"""Randomness as a pure function of a seed and a step, so that a resumed run draws what an uninterrupted one draws."""

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
    """Equal inputs give equal results, to the bit: by deterministic kernels, and a fixed number of threads.

    Two threads add up in another order than one.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what CUDA asks for in exchange for determinism
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
