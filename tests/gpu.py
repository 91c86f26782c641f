"""A GPU that is not there: tensors that are computed on the CPU, and behave as tensors on a GPU do.

An operation on such a tensor and one of the host is refused, and so is a random generator of the other device. Times
for which the host would wait for a GPU are listed. What is not seen: the kernels themselves, and their memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from etude.memory.counter import _apply

PLACE = torch.device("cuda", 0)
HOST = torch.device("cpu")
# may have operands on both devices: indices of the host are copied, for which the host waits
_MIXED = {"copy_", "index", "index_put_", "index_put", "_index_put_impl_"}


class OnGpu(Tensor):
    """A tensor that says it is on a GPU; its values are on the host."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    device = property(lambda _: PLACE)  # type: ignore[assignment]
    is_cuda = property(lambda _: True)  # type: ignore[assignment]
    is_cpu = property(lambda _: False)  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Run an operation on the host, and refuse operands that are there."""
        name = func.overloadpacket.__name__
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        others = [one for one in given if not isinstance(one, OnGpu) and one.ndim]
        if others and name not in _MIXED:
            raise RuntimeError(f"{name}: a tensor {list(others[0].shape)} is on the host, and others are on the GPU")
        if others and name != "copy_" and not isinstance(args[0], OnGpu):
            raise RuntimeError(f"{name}: indices on the GPU for a tensor {list(others[0].shape)} on the host")
        if name in ("_local_scalar_dense", "nonzero", "equal", "unique_dim") or others:
            _WAITS.append(name)
        with torch._C._DisableTorchDispatch():
            out = func(*args, **(kwargs or {}))
        if name == "_local_scalar_dense" or any(out is one for one in given):
            return out
        return tree_map(lambda one: placed(one) if isinstance(one, Tensor) else one, out)


_WAITS: list[str] = []
_Generator = torch.Generator
_PINNED: dict[int, Tensor] = {}  # by address; kept, so that no other tensor gets the address of one
_GENERATORS: dict[int, torch.Generator] = {}  # those of the GPU, by id


def placed(tensor: Tensor) -> Tensor:
    """The tensor, on the GPU."""
    if isinstance(tensor, OnGpu):
        return tensor
    return Tensor._make_subclass(OnGpu, tensor)


def _host(tensor: Tensor) -> Tensor:
    with torch._C._DisableTorchDispatch():
        return Tensor._make_subclass(Tensor, tensor).clone() if isinstance(tensor, OnGpu) else tensor


class _Moved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, there: bool) -> Tensor:  # type: ignore[override]
        ctx.back = isinstance(tensor, OnGpu)
        with torch._C._DisableTorchDispatch():
            return placed(tensor.clone()) if there else _host(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        return (placed(_host(gradient).clone()) if ctx.back else _host(gradient)), None


def _is_gpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


class _Gpu(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "to" and isinstance(args[0], Tensor):
            return self._to(func, args, kwargs)
        if name in ("cpu", "cuda") and isinstance(args[0], Tensor):
            return self._to(Tensor.to, (args[0], name), kwargs)
        if name == "numpy" and isinstance(args[0], OnGpu):
            raise TypeError("can't convert a tensor of the GPU to numpy")
        if name == "tolist" and isinstance(args[0], OnGpu):
            _WAITS.append(name)
            return _host(args[0].detach()).tolist()
        device = kwargs.get("device")
        on_gpu = _is_gpu(device) if device is not None else any(isinstance(o, OnGpu) for o in tree_leaves(args))
        generator = kwargs.get("generator")
        if isinstance(generator, _Generator) and (id(generator) in _GENERATORS) != on_gpu:
            raise RuntimeError(f"{name}: the generator is of the other device")
        if not _is_gpu(device) or func is torch.device:
            return func(*args, **kwargs)
        if name in ("tensor", "as_tensor"):
            _WAITS.append(name)
        out = func(*args, **(kwargs | {"device": "cpu"}))
        grad = out.requires_grad
        return placed(out.detach()).requires_grad_(grad)

    def _to(self, func: Any, args: Any, kwargs: Any) -> Any:
        tensor, rest = args[0], list(args[1:])
        device = kwargs.pop("device", None)
        quick = kwargs.get("non_blocking", False)
        if rest and isinstance(rest[0], Tensor):
            device, rest[0] = rest[0].device, rest[0].dtype
        elif (rest and isinstance(rest[0], str | torch.device)) or (rest and rest[0] is None):
            device = rest.pop(0)
        if rest and isinstance(rest[0], torch.dtype):
            kwargs["dtype"] = rest.pop(0)
        if rest:
            quick = rest.pop(0)
        there = isinstance(tensor, OnGpu) if device is None else _is_gpu(device)
        if device is not None and torch.device(device).type == "meta":
            return func(tensor, "meta")
        if there != isinstance(tensor, OnGpu):
            pinned = tensor.untyped_storage().data_ptr() in _PINNED
            if not there or not (quick and pinned):
                _WAITS.append("to the GPU" if there else "to the host")
            tensor = _Moved.apply(tensor, there)
        changes = {key: kwargs[key] for key in ("dtype", "copy", "memory_format") if kwargs.get(key) is not None}
        return func(tensor, **changes) if changes else tensor


class _Kind(type):
    """What `torch.Generator` is inside: a class whose generators can belong to the GPU."""

    def __call__(cls, device: Any = "cpu") -> torch.Generator:
        found = _Generator("cpu")
        if _is_gpu(device):
            _GENERATORS[id(found)] = found
        return found

    def __instancecheck__(cls, one: Any) -> bool:
        return isinstance(one, _Generator)


class _Made(metaclass=_Kind):
    pass


def _pin(tensor: Tensor) -> Tensor:
    if isinstance(tensor, OnGpu):
        raise RuntimeError("a tensor of the GPU cannot be pinned")
    copy = tensor.clone()
    _PINNED[copy.untyped_storage().data_ptr()] = copy
    return copy


@contextmanager
def a_gpu() -> Iterator[list[str]]:
    """Inside, there is such a GPU, whose name is cuda. Yields the list of what the host waits for."""
    autocast, enabled, half = torch.autocast, torch.is_autocast_enabled, torch.get_autocast_dtype
    with ExitStack() as undo:
        AcceleratorState._reset_state(reset_partial_state=True)  # otherwise accelerate would refuse a second precision
        undo.callback(AcceleratorState._reset_state, reset_partial_state=True)
        for name, value in {
            "autocast": lambda _, *rest, **named: autocast("cpu", *rest, **named),
            "is_autocast_enabled": lambda _=None: enabled("cpu"),
            "get_autocast_dtype": lambda _: half("cpu"),
            "Generator": _Made,
        }.items():
            undo.enter_context(patch.object(torch, name, value))
        undo.enter_context(patch.object(torch.nn.Module, "_apply", _apply))
        undo.enter_context(patch.object(Tensor, "pin_memory", _pin))
        undo.enter_context(_Gpu())
        undo.callback(_PINNED.clear)
        _WAITS.clear()
        yield _WAITS
