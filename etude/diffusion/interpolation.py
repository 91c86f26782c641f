"""Interpolation between two vectors."""

from __future__ import annotations

import torch
from torch import Tensor

ALIKE = 0.9995  # above this cosine, interpolation is linear: the results are almost equal, and sin ω is near 0


def slerp(one: Tensor, other: Tensor, share: float) -> Tensor:
    """Spherical interpolation from ``one`` [..., d] (share 0) to ``other`` (share 1) (Shoemake, 1985).

    sin((1-s)ω)/sin ω · one + sin(sω)/sin ω · other, where ω is the angle between them. It is linear if ω
    defines no path: for vectors with the same or opposite directions, and for zero vectors.
    """
    lengths = one.norm(dim=-1, keepdim=True) * other.norm(dim=-1, keepdim=True)
    cosine = (one * other).sum(dim=-1, keepdim=True) / lengths.clamp(min=torch.finfo(one.dtype).tiny)
    angle = cosine.clamp(-1, 1).acos()
    turned = (((1 - share) * angle).sin() * one + (share * angle).sin() * other) / angle.sin()
    straight = (cosine.abs() > ALIKE) | (lengths == 0)
    return torch.where(straight, torch.lerp(one, other, share), turned)
