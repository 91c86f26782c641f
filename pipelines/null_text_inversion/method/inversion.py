"""The optimisation of null-text inversion (Mokady et al., 2022, arXiv:2211.09794, algorithm 1).

With guidance w > 1, drawing from the pivot's noise does not follow the pivot. So for each step, from noise to picture,
the unconditional embedding ∅ is optimised so that the guided step ends at the pivot: minimise
‖z*_{t-1} - z_{t-1}(z̄, ∅)‖² over ∅.

`fit` is not used, because every step is a new problem with its own batch, and each picture stops early by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from etude.base.base import Base
from etude.base.conditioning import Conditioning
from etude.diffusion.noise import predict
from etude.diffusion.sample import guided

from .path import Path, towards_picture

BETAS, ε = (0.9, 0.999), 1e-8  # Adam's usual values


@dataclass(frozen=True)
class Rule:
    """How ∅ is optimised: the block `optimization` of params.yaml."""

    inner_steps: int  # the largest number of updates at each step of the path
    learning_rate: float  # of Adam at the first step of the path; half of it at the last
    stop: float  # a picture is done when its error is below stop + i · stop_growth
    stop_growth: float


@dataclass(frozen=True)
class Inversion:
    """The settings of a batch that is inverted: B texts, one path, one guidance."""

    base: Base
    path: Path
    text_conditioning: Conditioning
    guidance: float
    rule: Rule

    def rate(self, i: int) -> float:
        """The learning rate at step i. The paper's code: 1e-2 · (1 - i/100) for its 50 steps."""
        return self.rule.learning_rate * (1 - i / (2 * len(self.path)))

    def optimise(self, z: Tensor, goal: Tensor, nothing: Conditioning, i: int) -> tuple[Tensor, Tensor]:
        """∅ [B, 77, d] for step i from ``z`` to ``goal``, starting at ``nothing``; and each picture's last error [B].

        Pictures are independent: Adam changes each number by its own gradients, and a picture that is done is no
        longer changed or computed.
        """
        t = self._time(i)
        with torch.no_grad():
            conditional = predict(self.base, z, t, self.text_conditioning).to(z.dtype)
        embedding = nothing.hidden.detach().clone()
        first, second = torch.zeros_like(embedding), torch.zeros_like(embedding)
        errors = z.new_zeros(len(z))
        active = torch.arange(len(z), device=z.device)
        for inner in range(1, self.rule.inner_steps + 1):
            leaf = embedding[active].requires_grad_()
            u = predict(self.base, z[active], t, replace(nothing[active], hidden=leaf)).to(z.dtype)
            answer = u + self.guidance * (conditional[active] - u)
            landed = towards_picture(self.base, answer, z[active], self.path, i)
            each = (landed - goal[active]).square().mean(dim=(1, 2, 3))
            (gradient,) = torch.autograd.grad(each.sum(), leaf)
            errors[active] = each.detach()
            first[active] = torch.lerp(first[active], gradient, 1 - BETAS[0])
            second[active] = torch.lerp(second[active], gradient.square(), 1 - BETAS[1])
            mean, square = first[active] / (1 - BETAS[0] ** inner), second[active] / (1 - BETAS[1] ** inner)
            embedding[active] -= self.rate(i) * mean / (square.sqrt() + ε)
            limit = self.rule.stop + i * self.rule.stop_growth
            active = active[[place for place, error in enumerate(each.tolist()) if error >= limit]]
            if not len(active):
                break
        return embedding, errors

    @torch.no_grad()
    def advance(self, z: Tensor, nothing: Conditioning, i: int) -> Tensor:
        """z̄ after step i with the optimised ∅."""
        answer = guided(self.base, z, self._time(i), self.text_conditioning, nothing, self.guidance)
        return towards_picture(self.base, answer, z, self.path, i)

    def _time(self, i: int) -> Tensor:
        return torch.tensor(self.path.times[i], device=self.base.device)
