"""The precision in which a training and its previews compute."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from etude.core.artifact import PRECISIONS


def computing(device: str, precision: str) -> AbstractContextManager[Any]:
    """Within the block, torch computes in ``precision`` (fp32, fp16 or bf16), except what needs float32.

    A cache would keep a half-precision copy of each trained weight until the block ends: 5 GB for SDXL's UNet.
    """
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device, getattr(torch, PRECISIONS[precision]), cache_enabled=False)


def outside_fp16(device: str) -> AbstractContextManager[Any]:
    """Within the block, autocast does not compute in fp16. In bf16, which has the range of fp32, it does."""
    half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    return torch.autocast(device, enabled=False) if half else nullcontext()
