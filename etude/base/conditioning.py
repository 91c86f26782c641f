"""What the UNet is conditioned on at every step: an encoded text, and with an unCLIP base also a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """The text conditioning ``hidden`` [B, L, d] (L is 77, or as in `chunks`), and ``pooled`` [B, p] (SDXL).

    ``picture`` [B, 2d] or [B, d] is an unCLIP base's conditioning on a picture; None: that of the supplied picture is
    used (`unclip.with_image`).
    """

    hidden: Tensor
    pooled: Tensor | None = None
    picture: Tensor | None = None

    def __len__(self) -> int:
        return len(self.hidden)

    def __getitem__(self, index: slice | Sequence[int] | Tensor) -> Conditioning:
        return Conditioning(*(None if each is None else each[index] for each in self._tensors))  # type: ignore[arg-type]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Conditioning:
        """A copy on another device or in another precision."""
        return self.map(lambda tensor: tensor.to(device=device, dtype=dtype))

    def map(self, function: Callable[[Tensor], Tensor]) -> Conditioning:
        """The results of a function of each tensor."""
        return Conditioning(*(None if each is None else function(each) for each in self._tensors))  # type: ignore[arg-type]

    @property
    def _tensors(self) -> tuple[Tensor | None, ...]:
        return self.hidden, self.pooled, self.picture

    @staticmethod
    def cat(conditionings: Sequence[Conditioning]) -> Conditioning:
        """Concatenate batches. Either all have ``pooled`` or none; the same for ``picture``."""
        batch = []
        for column in zip(*(each._tensors for each in conditionings), strict=True):
            present = [tensor for tensor in column if tensor is not None]
            batch.append(torch.cat(present) if present else None)
        return Conditioning(*batch)  # type: ignore[arg-type]
