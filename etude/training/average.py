"""An exponential moving average of parameters (EMA): when it is on, a run saves the average."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class Average:
    """The average of ``tensors`` with ``decay``; 0: off. Early steps decay faster, so that the start counts less."""

    def __init__(self, tensors: Sequence[Tensor], decay: float) -> None:
        self.tensors, self.decay = list(tensors), decay
        self.values = [tensor.detach().clone() for tensor in self.tensors] if decay else []

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average with the parameters after 0-based ``step``."""
        if self.decay:
            decay = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.values, [t.detach() for t in self.tensors], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the parameters have the values of the average; on exit, their own values are restored."""
        if not self.decay:
            yield
            return
        own_values = [tensor.detach().clone() for tensor in self.tensors]
        self.load(self.values)
        try:
            yield
        finally:
            self.load(own_values)

    @torch.no_grad()
    def load(self, values: Sequence[Tensor]) -> None:
        """Copy ``values`` into the parameters."""
        for tensor, value in zip(self.tensors, values, strict=True):
            tensor.copy_(value)
