"""Tensors without values, and what operations on them return.

torch's FakeTensorMode does the same for its compiler, at ten times the cost of an operation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

CPU, META = torch.device("cpu"), torch.device("meta")
DEVICE = torch.ops.prim.device.default  # what `tensor.device` calls


class Sized(Tensor):
    """A tensor without values. Its storage is on the meta device, where operations only compute shapes.

    It reports the CPU as its device, so that autocast and autograd treat it as a tensor on the CPU.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def of(tensor: Tensor) -> Sized:
        """A `Sized` tensor with the storage of a tensor on the meta device."""
        grad = tensor.requires_grad
        made = Tensor._make_subclass(Sized, tensor, grad, dispatch_device=True, device_for_backend_keys=CPU)
        assert isinstance(made, Sized)
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Called where no mode is active: within operations, which ask for the device of their arguments."""
        if func is DEVICE:
            return META if torch._C._meta_in_tls_dispatch_include() else CPU
        return func(*args, **(kwargs or {}))


class Operations:
    """Runs operations, and remembers the forms of their results, because torch takes long to compute these."""

    def __init__(self) -> None:
        self._forms: dict[Any, Any] = {}  # call → form of the result

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The result of an operation: tensors of the meta device, or the arguments that it changed."""
        kwargs = {name: _LEFT.get(name, value) for name, value in kwargs.items()} if kwargs else {}
        if func.is_view:
            return _run(func, args, kwargs)
        described = _described(args)
        call = (func, described, *kwargs, _described(kwargs.values()))
        form = self._forms.get(call)
        if form is not None:
            return args[0] if form is _CHANGED else _make(form)
        out = _run(func, args, kwargs)
        if func._schema.is_mutable:
            form = _CHANGED if out is args[0] and _described(args) == described else None
        else:
            form = _form(out, args)
        self._forms[call] = form
        return out


_CHANGED = object()  # instead of a form: the result is the first argument, whose form stays the same
_LEFT = {"device": META, "generator": None}  # replaces arguments that only a device with values can use


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    args = [_without_values(one) for one in args]
    with torch._C._DisableTorchDispatch(), torch._C._PreserveDispatchKeyGuard():
        torch._C._set_meta_in_tls_dispatch_include(True)
        return func(*args, **kwargs)


def _without_values(one: Any) -> Any:
    """The argument; a tensor with values, such as a constant, is replaced by one without."""
    if isinstance(one, list):
        return [_without_values(each) for each in one]
    if not isinstance(one, Tensor) or isinstance(one, Sized) or one.is_meta:
        return one
    return torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device=META)


def _described(values: Iterable[Any]) -> tuple[Any, ...]:
    """The properties of arguments that determine the form of a result. 2 and 2.0 are equal, but give other dtypes."""
    found: list[Any] = []
    for one in values:
        if isinstance(one, Tensor):
            found.append((one.shape, one.stride(), one.dtype))
        elif isinstance(one, list | tuple):
            found.append(_described(one))
        else:
            found.append((type(one), one))
    return tuple(found)


def _form(out: Any, args: Any) -> Any:
    """The form of a result; None if its storage is that of an argument, or larger than the form needs."""
    if isinstance(out, list | tuple):
        forms = [_form(one, args) if isinstance(one, Tensor) else _NOTHING for one in out]
        return None if None in forms else forms
    if not isinstance(out, Tensor):
        return None
    storage, form = out.untyped_storage(), (out.shape, out.stride(), out.dtype)
    shared = any(isinstance(one, Tensor) and one.untyped_storage()._cdata == storage._cdata for one in args)
    return None if shared or _make(form).untyped_storage().nbytes() != storage.nbytes() else form


_NOTHING = ()  # among several results, the form of one that is not a tensor


def _make(form: Any) -> Any:
    """New tensors of a form, on the meta device."""
    if isinstance(form, list):
        return tuple(_make(one) if one else None for one in form)
    shape, strides, dtype = form
    return torch.empty_strided(shape, strides, dtype=dtype, device=META)
