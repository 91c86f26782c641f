from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.svd import matrix_of
from etude.formats import svd
from etude.formats.svd import truncated, truncated_to

SPECTRA: dict[str, Callable[[Tensor], Tensor]] = {  # of what is learned: a few large values, then a long tail
    "1/k": lambda k: 1 / k,
    "1/√k": lambda k: k**-0.5,
    "a head, then noise": lambda k: torch.exp(-k / 8) + 0.05 * (1 - k / (1.2 * len(k))),
    "exponential": lambda k: torch.exp(-k / 100),
}


def matrix(spectrum: str, rows: int = 320, columns: int = 768) -> tuple[Tensor, Tensor]:
    """A matrix of these singular values in random directions, and the values."""
    values = SPECTRA[spectrum](torch.arange(1, rows + 1, dtype=torch.float64))
    return matrix_of(values, columns), values


def product(factors: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    u, s, vh = factors
    return (u * s) @ vh


@pytest.mark.parametrize("rank", [4, 32])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_the_error_is_within_a_thousandth_of_the_least_that_there_is(spectrum: str, rank: int) -> None:
    whole, values = matrix(spectrum)
    least = values[rank:].square().sum().sqrt()
    for given in (whole, whole.T):
        found = truncated(given, rank)
        assert [factor.shape for factor in found] == [(len(given), rank), (rank,), (rank, given.shape[1])]
        error = (given - product(found)).norm()
        assert least * (1 - 1e-9) <= error <= least * (1 + 1e-3)


def test_a_small_matrix_and_a_rank_near_the_full_one_are_exact() -> None:
    for given, rank in ((matrix("1/√k", 64, 96)[0], 8), (matrix("1/√k")[0], 100), (matrix("1/√k")[0], 320)):
        u, s, vh = torch.linalg.svd(given, full_matrices=False)
        assert torch.equal(product(truncated(given, rank)), (u[:, :rank] * s[:rank]) @ vh[:rank])


def test_equal_matrices_give_equal_bits_and_nobody_else_s_randomness_is_touched() -> None:
    whole, _ = matrix("1/k")
    torch.manual_seed(1)
    first, drawn = truncated(whole, 4), torch.randn(3)
    torch.manual_seed(1)
    assert torch.equal(torch.randn(3), drawn)
    second = truncated(whole, 4)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_the_projection_is_what_large_matrices_go_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "svd_lowrank", None)
    whole, _ = matrix("1/k")
    with pytest.raises(TypeError):
        truncated(whole, 4)
    truncated(whole[: svd.SMALL], 4)


def rank_for(whole: Tensor, share: float) -> int:
    return len(truncated_to(whole, share)[1])


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_the_rank_for_a_share_is_the_least_whose_values_sum_to_more(share: float) -> None:
    whole, values = matrix("1/k")
    rank = rank_for(whole, share)
    assert values[:rank].sum() > share * values.sum() >= values[: rank - 1].sum()
    assert rank_for(whole, 1.0) == len(values)
    assert rank_for(torch.zeros(3, 4), 0.5) == 3
