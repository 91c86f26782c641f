"""Weights from files are checked when they are read: the dtype must be known, and all numbers must be finite.

Every reader gets its tensors through `checked`, once and while they are read: no file is read a second time, and
tensors that are not needed are not checked.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from etude.core.errors import EtudeWarning, FormatError
from etude.core.tensors import read_header

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LARGEST = 3.4028234663852886e38  # of float32, the precision of computations with weights
SHOWN = 120  # characters of a tensor's name in errors
FLOATS = ("float16", "bfloat16", "float32", "float64")
# 8-bit floats; float16 can represent all their values
EIGHT_BITS = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
# Tensors that are counts or switches, by the last word of their names. Some programs write alphas as whole numbers.
COUNTERS = (
    "position_ids",
    "alpha",
    "on_input",
    "num_batches_tracked",
    "num_updates",
    "decay",
    "step",
    "global_step",
    "epoch",
)
# Tensors that belong to quantised weights, by the last word of their names: without them the weights would be wrong.
SCALES = ("scale_weight", "weight_scale", "scaled_fp8", "comfy_quant", "absmax", "quant_map", "SCB", "qweight")

_WHOLE = "give a file in float16 or float32"
_NAN_ALLOWED: ContextVar[bool] = ContextVar("nan_allowed", default=False)


@contextmanager
def allow_nan(allowed: bool = True) -> Iterator[None]:
    """Inside, numbers that are not finite are allowed: for repair work."""
    token = _NAN_ALLOWED.set(allowed)
    try:
        yield
    finally:
        _NAN_ALLOWED.reset(token)


def nan_is_allowed() -> bool:
    """Whether numbers that are not finite are allowed at present (`allow_nan`)."""
    return _NAN_ALLOWED.get()


def checked(path: Path | str, name: str, tensor: Tensor) -> Tensor:
    """The tensor ``name`` of a file, after checking its dtype and that its numbers are finite; 8-bit floats as float16.

    Raises FormatError. For a file with 8-bit floats, there is one EtudeWarning.
    """
    import torch

    if tensor.is_meta:
        fault = f"`{name}` has a shape but no numbers (a tensor on the meta device)"
        raise FormatError(path, fault, "load the weights onto the CPU or the GPU, and save them again")
    dtype, last = str(tensor.dtype).removeprefix("torch."), name.rpartition(".")[2]
    name = name if len(name) <= SHOWN else f"{name[:SHOWN]}…"
    if last in SCALES:
        raise FormatError(path, f"`{name}` is of a quantised model", _WHOLE)
    if dtype in EIGHT_BITS:
        text = f"{path}: has weights in {dtype} (8 bits), which are read as float16"
        warnings.warn(text, EtudeWarning, stacklevel=2)
        tensor = tensor.to(torch.float16)
    elif dtype not in FLOATS:
        if last in COUNTERS or not tensor.numel():
            return tensor
        raise FormatError(path, f"`{name}` is {dtype}: it is no weight, or one of a quantised model", _WHOLE)
    if tensor.layout != torch.strided or tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        raise FormatError(path, f"`{name}` declares more numbers than the file has", "fetch or make it again")
    if tensor.numel() and not nan_is_allowed() and not is_finite(tensor):
        action = "fetch or make it again; `etude convert --allow-nan` reads it for repair work"
        raise FormatError(path, f"`{name}` holds numbers that are not finite (NaN or infinity)", action)
    return tensor


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite, in float32 too. 3 to 6 GB/s, without a copy."""
    low, high = map(float, tensor.detach().aminmax())
    return low >= -LARGEST and high <= LARGEST  # with NaN, both comparisons are false


def refuse_infinite(path: Path | str, what: str, tensor: Tensor) -> Tensor:
    """``tensor``, which was computed from numbers of a file; raises FormatError naming ``what`` if it is not finite."""
    if tensor.numel() and not nan_is_allowed() and not is_finite(tensor):
        fault = f"{what} is not finite in {str(tensor.dtype).removeprefix('torch.')} (infinity or NaN)"
        raise FormatError(path, fault, "fetch or make the file again, or compute in float32")
    return tensor


def in_precision(path: Path | str, name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy of ``tensor`` in ``dtype``, on the CPU; raises FormatError if that cannot hold its numbers."""
    import torch

    copy = tensor.detach().to("cpu", dtype, copy=True)
    if dtype != torch.float16 or tensor.dtype == dtype or not tensor.numel() or is_finite(copy):
        return copy
    if not is_finite(tensor):
        action = "lower the learning rate, or train in `precision: fp32`"
        raise FormatError(path, f"`{name}` has numbers that are not finite (NaN or infinity)", action)
    largest = float(tensor.detach().abs().amax())
    fault = f"`save: fp16` cannot hold `{name}`: its largest number is {largest:.6g}, and fp16 ends at 65504"
    raise FormatError(path, fault, "write `save: bf16` or `save: fp32`, and build again")


def read_weights(
    path: Path | str, wanted: Callable[[str], bool] = lambda _: True
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The checked tensors of a safetensors file whose names are ``wanted``, and its metadata.

    They are memory-mapped, not copied. Raises FormatError, or InputError if the file is missing.
    """
    from safetensors import SafetensorError, safe_open

    names = read_header(path)
    metadata = dict(names.pop("__metadata__", None) or {})
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: checked(path, name, file.get_tensor(name)) for name in names if wanted(name)}, metadata
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:  # a dtype that torch lacks
        raise FormatError(path, f"is damaged ({error})", "fetch or make it again") from error
