"""How a build computes: deterministic kernels or the fastest ones, and switches that make a GPU faster.

A switch that a machine cannot use is left out, with one warning.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.backends import cuda, cudnn

from etude.base.base import Base
from etude.core import randomness
from etude.core.errors import EtudeWarning, TrainingError
from etude.training.settings import Compute

CACHE = Path(".cache", "compiled")  # what torch.compile made, for later builds
NONE = "does not have a deterministic implementation"  # torch's words
_ATTENTION: Mapping[str, Callable[[bool], None]] = {
    "flash": cuda.enable_flash_sdp,
    "efficient": cuda.enable_mem_efficient_sdp,
    "cudnn": cuda.enable_cudnn_sdp,
    "math": cuda.enable_math_sdp,
}


class LeftOutWarning(EtudeWarning):
    """A switch of `compute` that this machine cannot use was left out."""


def choose_kernels(settings: Compute, threads: int, device: str) -> None:
    """Set which kernels torch takes on ``device``, cpu or cuda, from now on."""
    if settings.deterministic:
        randomness.make_deterministic(threads, strict=True)
    else:
        randomness.allow_any_kernels(threads)
    if device == "cpu":
        if settings.tf32 or settings.attention != "auto":
            _warn("`tf32` and `attention` need a GPU")
        return
    cuda.matmul.allow_tf32 = cudnn.allow_tf32 = settings.tf32
    if settings.attention != "auto":
        for name, allow in _ATTENTION.items():
            allow(name in (settings.attention, "math"))  # math is for shapes that the chosen kernel cannot do


def accelerate(base: Base, settings: Compute) -> None:
    """Prepare the UNet, if one is loaded, for faster steps."""
    if base.unet is None:
        return
    if settings.channels_last:
        base.unet.to(memory_format=torch.channels_last)
    if settings.compile:
        compile_in_place(base.unet)


def compile_in_place(module: nn.Module, backend: str = "inductor") -> None:
    """Compile the module at its next call; if that fails, it is called as before, with a LeftOutWarning.

    The whole of it is one graph, so that a failure comes before anything is computed, and no random number is lost.
    """
    from torch._dynamo.exc import TorchDynamoException

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(CACHE.absolute()))
    plain: Callable[..., Any] = module.forward
    compiled = torch.compile(plain, backend=backend, fullgraph=True)

    def call(*arguments: Any, **settings: Any) -> Any:
        try:
            return compiled(*arguments, **settings)
        except TorchDynamoException as error:
            _warn(f"`compile` fails here ({' '.join(str(error).split())[:160]})")
            module.forward = plain
            return plain(*arguments, **settings)

    module.forward = call


@contextmanager
def naming_kernels() -> Iterator[None]:
    """An operation inside without a deterministic kernel is a TrainingError that names it."""
    try:
        yield
    except RuntimeError as error:
        operation, found, _ = str(error).partition(NONE)
        if not found:
            raise
        action = "write `compute.deterministic: false`: then equal runs may differ in their last digits"
        raise TrainingError(operation.strip(), "has no deterministic kernel on this device", action) from error


def _warn(text: str) -> None:
    warnings.warn(f"params.yaml: in `compute`, {text}; left out", LeftOutWarning, stacklevel=3)
