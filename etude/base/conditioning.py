"""What the UNet is told at every step: a text as it was encoded, and of an unCLIP base a picture besides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """What the UNet is told. ``hidden`` [B, 77, d]; ``pooled`` [B, p] where the family has it (SDXL).

    ``picture`` [B, 2d] or [B, d]: an unCLIP base's labels of a picture; None: of the one that is supplied
    (`unclip.with_image`).
    """

    hidden: Tensor
    pooled: Tensor | None = None
    picture: Tensor | None = None

    def __len__(self) -> int:
        return len(self.hidden)

    def __getitem__(self, index: slice | Sequence[int] | Tensor) -> Conditioning:
        return Conditioning(*(None if each is None else each[index] for each in self._tensors))  # type: ignore[arg-type]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Conditioning:
        """On another device, or in another precision."""
        moved = (None if each is None else each.to(device=device, dtype=dtype) for each in self._tensors)
        return Conditioning(*moved)  # type: ignore[arg-type]

    @property
    def _tensors(self) -> tuple[Tensor | None, ...]:
        return self.hidden, self.pooled, self.picture

    @staticmethod
    def cat(conditionings: Sequence[Conditioning]) -> Conditioning:
        """One batch of several; all with ``pooled``, or all without, and so with ``picture``."""
        batch = []
        for column in zip(*(each._tensors for each in conditionings), strict=True):
            present = [tensor for tensor in column if tensor is not None]
            batch.append(torch.cat(present) if present else None)
        return Conditioning(*batch)  # type: ignore[arg-type]
