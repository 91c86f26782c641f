"""Operations on tensors without values: what they return has the form that it has with values, and is counted once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from etude.memory.counter import BLOCK, counting

Operation = Callable[[Tensor], Any]
OPERATIONS: dict[str, Operation] = {
    "an integer": lambda x: x.int() * 2,
    "an equal number of another type": lambda x: x.int() * 2.0,
    "a view, and a sum of it": lambda x: x.t() + 1,
    "an expanded tensor": lambda x: x[:1].expand(7, 6) * 2,
    "several results": lambda x: functional.layer_norm(x, (6,)).chunk(2),
    "a change in place": lambda x: x.clone().mul_(3),
    "a constant": lambda x: x + torch.tensor([1.0] * 6),
    "a convolution": lambda x: functional.conv2d(x.view(1, 2, 3, 4), torch.ones(5, 2, 1, 1)),
}


def forms(out: Any) -> list[Any]:
    outs = out if isinstance(out, tuple | list) else [out]
    return [(one.shape, one.stride(), one.dtype, one.device.type) for one in outs]


@pytest.mark.parametrize("name", OPERATIONS)
def test_results_have_the_form_that_they_have_with_values_the_second_time_too(name: str) -> None:
    expected = forms(OPERATIONS[name](torch.ones(4, 6)))
    with counting():
        x = torch.empty(4, 6)
        first, second = (forms(OPERATIONS[name](x)) for _ in range(2))
    assert first == second == expected


def test_what_the_way_back_needs_is_kept_and_goes_with_it() -> None:
    with counting() as counter:
        weight = torch.empty(1024, 1024, requires_grad=True)
        before = counter.now
        with torch.autocast("cpu", torch.bfloat16):
            loss = (torch.empty(1024, 1024) @ weight).square().sum()
        kept = counter.now - before
        loss.backward()
        del loss
        left = counter.now - before
    half, whole = 2 * 1024**2, 4 * 1024**2
    assert 2 * half <= kept < 4 * whole  # the input in bf16, and the product
    assert left == whole  # the gradient
    assert before == whole


def test_a_view_is_no_memory_of_its_own_and_what_is_given_up_is_free() -> None:
    with counting() as counter:
        x = torch.empty(100, 100)
        view, copy = x.t(), x.t().contiguous()
        size = -(-40_000 // BLOCK) * BLOCK
        assert counter.now == 2 * size
        del x
        assert counter.now == 2 * size  # the view keeps it
        del view, copy
    assert (counter.now, counter.peak) == (0, 2 * size)
