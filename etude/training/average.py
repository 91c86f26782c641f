"""An exponential moving average of parameters (EMA): when it is on, a run saves the average."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

HOST = torch.device("cpu")


class Average:
    """The average of ``tensors`` with ``decay``; 0: off. It decays faster in early steps: the start counts less.

    It is on the host: the device has no copy of it.
    """

    def __init__(self, tensors: Sequence[Tensor], decay: float) -> None:
        self.tensors, self.decay = list(tensors), decay
        self.values = [to_host(tensor) for tensor in self.tensors] if decay else []
        self.steps = 0  # of training, up to the last update

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Update the average with the parameters after ``steps`` steps.

        The decays of all steps since the last update are multiplied: the EMA scaling rule ρ̂ = ρ^κ (Busbridge et al.,
        2023, arXiv:2307.13813). So a value differs from an average that is updated at every step by at most
        the largest distance between its parameter at an update and at any step since the update before.
        """
        if not self.decay:
            return
        kept = math.prod(min(self.decay, (1 + step) / (10 + step)) for step in range(self.steps, steps))
        for value, tensor in zip(self.values, self.tensors, strict=True):
            value.lerp_(tensor.detach().to(HOST), 1 - kept)
        self.steps = steps

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block, the parameters have the values of the average, and ``values`` those of the parameters."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        """Exchange one tensor after the other, so that there is no second copy of all of them."""
        for value, tensor in zip(self.values, self.tensors if self.decay else [], strict=True):
            own = to_host(tensor)
            tensor.copy_(value)
            value.copy_(own)

    @torch.no_grad()
    def load(self) -> None:
        """Copy the average into the parameters."""
        for value, tensor in zip(self.values, self.tensors if self.decay else [], strict=True):
            tensor.copy_(value)

    @torch.no_grad()
    def restore(self, values: Sequence[Tensor], steps: int) -> None:
        """Continue with a saved average of ``steps`` steps."""
        for value, saved in zip(self.values, values, strict=True):
            value.copy_(saved)
        self.steps = steps


def to_host(tensor: Tensor) -> Tensor:
    """A copy on the host."""
    return tensor.detach().to(HOST, copy=True)
