"""Parts of a base that wait on the host, and are on its device only while they are used; and copies to the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from etude.base.base import Base
from etude.core.params import Part

HOST = torch.device("cpu")


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on ``device``. The host does not wait for a copy to a GPU: it is made of a pinned copy."""
    if device.type == "cuda" and tensor.device == HOST:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@contextmanager
def present(base: Base, part: Part) -> Iterator[None]:
    """Inside, a part that waits on the host is on the base's device; any other part is there already."""
    if part not in base.waiting:
        yield
        return
    base.waiting.remove(part)
    try:
        for module in modules(base, part):
            bring(module, base.device)
        yield
    finally:
        base.waiting.add(part)
        for module in modules(base, part):
            send(module)


@contextmanager
def absent(base: Base, part: Part) -> Iterator[None]:
    """Inside, a part waits on the host, so that the device has room for another one."""
    for module in modules(base, part):
        send(module)
    try:
        yield
    finally:
        for module in modules(base, part):
            bring(module, base.device)


def discard(base: Base, part: Part) -> None:
    """Free the memory of a part if it waits, because nothing uses it any more: its weights lose their values."""
    if part in base.waiting:
        base.waiting.remove(part)
        for module in modules(base, part):
            free(module)


def modules(base: Base, part: Part) -> tuple[Any, ...]:
    """The modules of a part."""
    return base.text_encoders if part == "text" else (getattr(base, part),)


def bring(module: Any, device: torch.device) -> None:
    """Move a module to the device."""
    module.to(device)


def send(module: Any) -> None:
    """Move a module to the host."""
    module.to(HOST)


def free(module: Any) -> None:
    """Keep a module's layers without the values of their weights, also where something else refers to these."""
    tensors = [*module.parameters(), *module.buffers()]
    module.to("meta")  # gives it new parameters
    for tensor in tensors:
        tensor.data = tensor.data.new_empty(0)
