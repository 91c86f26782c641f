"""Pairs of matrices, whatever the format."""

from __future__ import annotations

import pytest
import torch

from etude.core.errors import FormatError
from etude.formats.layers import read_layers
from etude.formats.pairs import Pair, join, split


def place(key: str) -> tuple[str, str]:
    layer, _, factor = key.rpartition("/")
    return layer, factor


@pytest.mark.parametrize(
    ("down", "up"),
    [((4,), (8, 4)), ((4, 8), (4,)), ((4,), (4,)), ((), ()), ((4, 8), (8, 3)), ((4, 8, 1, 1), (8, 3, 1, 1))],
)
def test_halves_that_do_not_fit_or_are_no_matrices_are_named(down: tuple[int, ...], up: tuple[int, ...]) -> None:
    halves = {"unet.a/lora_A.weight": torch.ones(down), "unet.a/lora_B.weight": torch.ones(up)}
    with pytest.raises(FormatError, match=r"`unet\.a` has factors that do not fit: .*\[.*\].*\[.*\]"):
        read_layers("x", halves, place)


def test_the_alpha_of_the_file_counts_before_that_of_its_configuration_and_that_before_the_rank() -> None:
    tensors = {"unet.a/alpha": torch.tensor(3.0)}
    for layer in ("unet.a", "unet.b", "unet.c"):
        tensors |= {f"{layer}/lora_A.weight": torch.ones(4, 8), f"{layer}/lora_B.weight": torch.ones(6, 4)}
    configured = {"unet.a": 5.0, "unet.b": 7.0}
    pairs = split(*read_layers("x", tensors, place, lambda layer, rank: configured.get(layer, float(rank))))
    assert {name: pair.alpha for name, pair in pairs.items()} == {"unet.a": 3.0, "unet.b": 7.0, "unet.c": 4.0}


def test_the_commonest_rank_and_alpha_are_told_and_every_other_alpha_by_its_layer() -> None:
    pairs = {}
    for name, (rank, alpha) in {"unet.a": (4, 1.0), "unet.b": (2, 8.0), "unet.c": (2, 8.0)}.items():
        pairs[name] = Pair(torch.ones(rank, 8), torch.ones(6, rank), alpha)
    tensors, facts = join(pairs)
    assert facts == {"rank": 2, "alpha": 8.0, "alphas": {"unet.a": 1.0}}
    again = split(tensors, facts)
    assert {name: (pair.rank, pair.alpha) for name, pair in again.items()} == {
        "unet.a": (4, 1.0),
        "unet.b": (2, 8.0),
        "unet.c": (2, 8.0),
    }
