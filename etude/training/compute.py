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
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.backends import cuda, cudnn
from torch.utils._pytree import tree_map_only

from etude.base.base import Base
from etude.core import randomness
from etude.core.errors import EtudeWarning, TrainingError
from etude.training.settings import Compute

CACHE = Path(".cache", "compiled")  # what torch.compile made, for later builds
MOST_SIZES = 64  # sizes of pictures to compile for; there are fewer buckets. torch's own limit is 8
_RECORDED: Mapping[str, Any] = {"dynamic": False}  # one recording for each size of pictures
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
    """Choose the kernels that torch uses on ``device`` (cpu or cuda) from now on."""
    if settings.deterministic:
        randomness.make_deterministic(threads, strict=True)
    else:
        randomness.allow_any_kernels(threads)
    if device == "cpu":
        if settings.tf32 or settings.graphs or settings.attention != "auto":
            _warn("`tf32`, `graphs` and `attention` have no effect on the CPU")
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
    graphs = settings.graphs and base.device.type != "cpu"
    if graphs:
        torch._dynamo.config.recompile_limit = MOST_SIZES
    if settings.compile:
        compile_in_place(base.unet, "compile", **({"mode": "reduce-overhead", **_RECORDED} if graphs else {}))
    elif graphs:
        compile_in_place(base.unet, "graphs", backend=recorded, **_RECORDED)
    if graphs:
        _keep_answers(base.unet)


def recorded(graph: Any, inputs: Any) -> Any:
    """torch's backend ``cudagraphs``, with the weights where they are.

    torch 2.13 takes weights for inputs of the graph, of which the recording has its own copies: the memory of all
    weights twice, and a copy of each at every step. Its other backend asks which inputs stay where they are; so here.
    """
    from torch._dynamo.backends.cudagraphs import cudagraphs
    from torch._inductor import cudagraph_trees
    from torch._inductor.compile_fx import get_static_input_idxs

    plain = cudagraph_trees.cudagraphify_impl

    def record(model: Any, given: Any, fixed: Any, **settings: Any) -> Any:
        places = fixed if settings["is_backward"] else get_static_input_idxs(len(fixed))
        return plain(model, given, places, **settings)

    with patch.object(cudagraph_trees, "cudagraphify_impl", record):
        return cudagraphs(graph, inputs)


def _keep_answers(module: nn.Module) -> None:
    """The module's answers are copies: the next call overwrites those of a recording."""
    call: Callable[..., Any] = module.forward

    def copied(*arguments: Any, **named: Any) -> Any:
        return tree_map_only(Tensor, torch.clone, call(*arguments, **named))

    module.forward = copied


def compile_in_place(module: nn.Module, switch: str = "compile", **settings: Any) -> None:
    """Compile the module with torch.compile at its next call; if compiling fails, the module runs uncompiled.

    A LeftOutWarning then names the ``switch``. The whole module must be one graph, so that such a failure comes before
    anything is computed, and no random number is lost. What fails later, such as a recording of a GPU's kernels, is an
    error. ``settings`` are torch.compile's.
    """
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(CACHE.absolute()))
    plain: Callable[..., Any] = module.forward
    compiled = torch.compile(plain, fullgraph=True, **settings)

    def call(*arguments: Any, **named: Any) -> Any:
        try:
            return compiled(*arguments, **named)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            _warn(f"`{switch}` failed and is ignored ({' '.join(str(error).split())[:160]})")
            module.forward = plain
            return plain(*arguments, **named)

    module.forward = call


@contextmanager
def naming_kernels() -> Iterator[None]:
    """Within the block, an operation without a deterministic kernel raises a TrainingError that names it."""
    try:
        yield
    except RuntimeError as error:
        operation, found, _ = str(error).partition(NONE)
        if not found:
            raise
        action = "write `compute.deterministic: false`: then equal runs may differ in their last digits"
        raise TrainingError(operation.strip(), "has no deterministic kernel on this device", action) from error


def _warn(text: str) -> None:
    warnings.warn(f"params.yaml: in `compute`, {text}", LeftOutWarning, stacklevel=3)
