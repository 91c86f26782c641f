"""The classifier's network, part by part, against its description written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from etude.evaluation.network import Block, ConditionedHead, Network


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


@pytest.mark.parametrize(("before", "after", "stride"), [(4, 4, 1), (4, 8, 1), (4, 4, 2), (4, 8, 2)])
def test_a_block_adds_two_convolutions_to_a_skip_connection_and_begins_as_that_alone(
    before: int, after: int, stride: int
) -> None:
    block, x = Block(before, after, stride, 2), random(2, before, 8, 8)
    skip = x if before == after and stride == 1 else functional.conv2d(x, block.round.weight, stride=stride)  # type: ignore[arg-type]
    torch.testing.assert_close(block(x), skip.relu())
    torch.nn.init.ones_(block.second_norm.weight)
    inner = functional.conv2d(x, block.first.weight, stride=stride, padding=1)
    inner = functional.group_norm(inner, 2).relu()
    inner = functional.group_norm(functional.conv2d(inner, block.second.weight, padding=1), 2)
    torch.testing.assert_close(block(x), (inner + skip).relu())


def test_a_conditioned_head_has_a_term_for_all_labels_of_the_other_part_and_one_for_each() -> None:
    head, x = ConditionedHead(6, 3, 4, 5), random(2, 6)
    few = x @ head.low.weight.T + head.low.bias
    own = few @ head.own.weight.T
    shared = few @ head.shared.weight.T + head.shared.bias
    found = head(x)
    assert found.shape == (2, 4, 5)
    for label in range(4):
        torch.testing.assert_close(found[:, label], own[:, 5 * label : 5 * label + 5] + shared)
    assert 0.01 < head.own.weight.std() < 0.04  # labels begin nearly alike


def test_each_level_halves_the_side_and_the_heads_read_a_grid_of_places() -> None:
    network = Network([4, 8, 12], 2, 2, 2, 3, {"style": "concept"}, {"concept": 5, "style": 7, "background": 3})
    sides: list[tuple[int, ...]] = []
    for block in network.levels:
        block.register_forward_hook(lambda _block, _inputs, output: sides.append(tuple(output.shape[1:])))
    logits = network(random(2, 3, 64, 64))
    assert sides == [(4, 16, 16)] * 2 + [(8, 8, 8)] * 2 + [(12, 4, 4)] * 2
    assert {part: tuple(row.shape) for part, row in logits.items()} == {
        "concept": (2, 5),
        "background": (2, 3),
        "style": (2, 7),
    }
    assert network.heads["concept"].in_features == 12 * 2 * 2
    torch.testing.assert_close(logits["style"].exp().sum(dim=1), torch.ones(2))
