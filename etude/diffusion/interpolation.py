"""Ways between two vectors."""

from __future__ import annotations

import torch
from torch import Tensor

ALIKE = 0.9995  # cosine from which on the way is straight: there both ways are one, and the angle's sine is near 0


def slerp(one: Tensor, other: Tensor, share: float) -> Tensor:
    """From ``one`` [..., d] (share 0) to ``other`` (share 1) at an even turn (Shoemake, 1985).

    sin((1-s)ω)/sin ω · one + sin(sω)/sin ω · other, with ω the angle between them. Straight where there is no turn: for
    vectors that point one way or opposite ways, or that have no length.
    """
    lengths = one.norm(dim=-1, keepdim=True) * other.norm(dim=-1, keepdim=True)
    cosine = (one * other).sum(dim=-1, keepdim=True) / lengths.clamp(min=torch.finfo(one.dtype).tiny)
    angle = cosine.clamp(-1, 1).acos()
    turned = (((1 - share) * angle).sin() * one + (share * angle).sin() * other) / angle.sin()
    straight = (cosine.abs() > ALIKE) | (lengths == 0)
    return torch.where(straight, torch.lerp(one, other, share), turned)
