"""The nearest matrix of a rank (Eckart and Young, 1936), by singular values: exact, or by random projection.

A full decomposition of 1280 × 11520 takes a hundred times as long as the few singular vectors that are kept (measured:
`benchmarks/svd.py`). Those are found in a random subspace of the matrix (Halko et al., 2011, arXiv:0909.4061, 4.4).
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALL = 256  # rows or columns: up to here the exact decomposition takes a few hundredths of a second
ITERATIONS = 4  # power iterations: with twice the rank drawn, error within 1e-3 of the least, even on slow spectra
SEED = 0


def truncated(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """U [m, r], S [r] and Vᵀ [r, n] of the ``rank`` largest singular values (r ≤ m, n) of a matrix [m, n].

    In float64 on the CPU, with a fixed seed: equal matrices give equal results, and so equal files.
    """
    wide, side = matrix.detach().double().cpu(), min(matrix.shape)
    drawn = 2 * rank + 10
    if side <= SMALL or 4 * drawn > side:
        u, s, vh = torch.linalg.svd(wide, full_matrices=False)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(SEED)  # not torch.manual_seed, which would seed GPUs as well
            u, s, v = torch.svd_lowrank(wide, q=drawn, niter=ITERATIONS)
        vh = v.T
    return u[:, :rank], s[:rank], vh[:rank]


def truncated_to(matrix: Tensor, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """`truncated` for the fewest singular values whose sum is above ``share`` of that of all; all are computed."""
    u, s, vh = torch.linalg.svd(matrix.detach().double().cpu(), full_matrices=False)
    below = s.cumsum(0) / s.sum().clamp(min=1e-30) <= share
    rank = min(int(below.sum()) + 1, len(s))
    return u[:, :rank], s[:rank], vh[:rank]
