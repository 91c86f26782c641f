"""Counting memory on tensors without values: the bytes that are alive at once, as on a GPU."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from etude.core import weights
from etude.memory.sized import CPU, DEVICE, Operations, Sized

BLOCK = 512  # bytes: CUDA's allocator allocates multiples of it


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that are alive. ``now`` and ``peak`` are in bytes; ``peak`` is the most since `restart`."""

    def __init__(self, on_host: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._on_host = on_host  # whether the host itself is the device: then nothing is aside
        self._alive: dict[int, int] = {}  # storage → bytes
        self._operations = Operations()
        self._aside: set[int] = set()  # storages on the host
        self.now = self.peak = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here; telling the compiler so would take as long as an operation

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count the storages of its results that are new."""
        return CPU if func is DEVICE else self._counted(self._operations.run(func, args, kwargs))

    def _counted(self, out: Any) -> Any:
        """The result of an operation, with its tensors counted."""
        if isinstance(out, list | tuple):
            return tuple(map(self._counted, out))
        if not isinstance(out, Tensor):
            return out
        tensor = out if isinstance(out, Sized) else Sized.of(out)
        self._add(tensor)
        return tensor

    def restart(self) -> None:
        """Start to measure a new peak."""
        gc.collect()  # cycles keep tensors alive for a while, at random
        self.peak = self.now

    def put_aside(self, tensor: Tensor) -> Tensor:
        """Stop counting ``tensor``: on a GPU it would wait on the host."""
        if self._on_host:
            return tensor
        storage = tensor.untyped_storage()
        self._drop(storage._cdata)
        self._aside.add(storage._cdata)
        weakref.finalize(storage, self._aside.discard, storage._cdata)
        return tensor

    def bring(self, module: torch.nn.Module, _device: Any = None) -> None:
        """Count the tensors of a module that is moved from the host to the device."""
        for tensor in (*module.parameters(), *module.buffers()):
            self._aside.discard(tensor.untyped_storage()._cdata)
            self._add(tensor)

    def send(self, module: torch.nn.Module) -> None:
        """Stop counting the tensors of a module: on a GPU they would wait on the host."""
        for tensor in (*module.parameters(), *module.buffers()):
            self.put_aside(tensor)

    def free(self, module: torch.nn.Module) -> None:
        """Stop counting the tensors of a module, whose values are freed wherever they are."""
        for tensor in (*module.parameters(), *module.buffers()):
            self._drop(tensor.untyped_storage()._cdata)

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        number = storage._cdata
        if number not in self._alive and number not in self._aside:
            size = -(-storage.nbytes() // BLOCK) * BLOCK
            self._alive[number] = size
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, number)

    def _drop(self, number: int) -> None:
        self.now -= self._alive.pop(number, 0)


@contextmanager
def counting(device: str = "cuda") -> Iterator[Counter]:
    """Within the block, tensors have shapes but no values, and operations keep for backward what ``device``'s keep."""
    with ExitStack() as undo:
        undo.enter_context(patch.object(torch.nn.Module, "_apply", _apply))
        undo.enter_context(patch.object(Tensor, "tolist", _tolist))
        undo.enter_context(patch.object(Tensor, "item", _item))
        for name, kind in {"__int__": int, "__index__": int, "__float__": float, "__bool__": bool}.items():
            undo.enter_context(patch.object(Tensor, name, _value(kind)))
        undo.enter_context(patch.object(weights, "is_finite", lambda _: True))  # numbers that are not there
        for name, function in _KERNELS[device].items():
            undo.enter_context(patch.object(functional, name, function))
        gc.freeze()  # older objects hold no counted tensors, and searching them takes long
        undo.callback(gc.unfreeze)
        yield undo.enter_context(Counter(on_host=device == "cpu"))


def _apply(self: torch.nn.Module, change: Any, recurse: bool = True) -> torch.nn.Module:
    """`Module._apply` for parameters without values: it replaces the parameters, not their values."""
    for child in self.children() if recurse else ():
        child._apply(change)  # type: ignore[no-untyped-call]
    for name, parameter in self._parameters.items():
        if parameter is not None:
            with torch.no_grad():
                changed = change(parameter)
            if changed is not parameter:
                self._parameters[name] = torch.nn.Parameter(changed, parameter.requires_grad)
    for name, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[name] = change(buffer)
    return self


_whole_tolist, _whole_item = Tensor.tolist, Tensor.item


def _tolist(tensor: Tensor) -> Any:
    return _nested(tensor, tensor.shape) if isinstance(tensor, Sized) else _whole_tolist(tensor)


def _nested(tensor: Tensor, shape: torch.Size) -> Any:
    return [_nested(tensor, shape[1:]) for _ in range(shape[0])] if shape else _item(tensor)


def _item(tensor: Tensor) -> Any:
    """The value of a tensor. If it has none, any finite number will do, because only memory is measured."""
    if not isinstance(tensor, Sized):
        return _whole_item(tensor)
    return 0.5 if tensor.dtype.is_floating_point else 0


def _value(kind: type) -> Any:
    """The method that Python calls to convert a tensor to a number."""
    return lambda tensor: kind(_item(tensor))


_attention = functional.scaled_dot_product_attention


def _autocast() -> bool:
    return torch.is_autocast_enabled("cpu")


def _flash_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention that keeps no matrix of tokens × tokens, as the kernels of both devices do."""
    if not isinstance(q, Sized):
        return _attention(q, k, v, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if _autocast():
        q, k, v = (tensor.to(torch.get_autocast_dtype("cpu")) for tensor in (q, k, v))
    answer: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, is_causal, scale=scale)[0]
    return answer


def _in_float32(norm: Any) -> Any:
    """A norm that computes in float32 under autocast; its second argument is a number of groups, or a shape."""

    def normed(
        x: Tensor, second: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
    ) -> Tensor:
        if not _autocast():
            return norm(x, second, weight, bias, eps)  # type: ignore[no-any-return]
        with torch.autocast("cpu", enabled=False):
            return norm(x.float(), second, _float(weight), _float(bias), eps)  # type: ignore[no-any-return]

    return normed


def _float(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.float()


# Autocast computes attention in 16 bits; norms CUDA's computes in float32, and the CPU's does not.
_CPU = {"scaled_dot_product_attention": _flash_attention}
_NORMS = {"group_norm": _in_float32(functional.group_norm), "layer_norm": _in_float32(functional.layer_norm)}
_KERNELS: Mapping[str, Mapping[str, Any]] = {"cpu": _CPU, "cuda": _CPU | _NORMS}
