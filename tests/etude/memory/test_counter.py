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


def module() -> torch.nn.Module:
    """A megabyte of parameters, and a kilobyte in a buffer."""
    made = torch.nn.Module()
    made.weight = torch.nn.Parameter(torch.empty(256, 1024))
    made.register_buffer("table", torch.empty(256))
    return made


def test_on_a_gpu_what_waits_on_the_host_is_not_counted_until_it_comes_back() -> None:
    with counting() as counter:
        made = module()
        assert counter.now == 2**20 + 2**10
        counter.send(made)
        assert counter.now == 0
        half = made.weight[:128]  # a view of what is on the host
        assert (counter.now, half.shape) == (0, (128, 1024))
        counter.bring(made)
        assert counter.now == 2**20 + 2**10
        assert torch.empty(128).shape == counter.put_aside(torch.empty(128)).shape
        counter.free(made)
        assert counter.now == 0


def test_on_a_cpu_nothing_waits_elsewhere_and_what_is_freed_is_free() -> None:
    with counting("cpu") as counter:
        made = module()
        counter.send(made)
        assert counter.now == 2**20 + 2**10
        counter.free(made)
        assert counter.now == 0


def test_the_peak_is_the_most_at_once_since_it_was_asked_for_anew() -> None:
    with counting() as counter:
        kept, passing = torch.empty(1000), torch.empty(3000)
        del passing
        assert (counter.now, counter.peak) == (4096, 4096 + 12288)
        counter.restart()
        assert counter.peak == 4096
        del kept
        assert (counter.now, counter.peak) == (0, 4096)


def test_a_tensor_without_values_is_read_as_some_number_and_one_with_values_as_its_own() -> None:
    true = torch.tensor([[1.5, 2.0]])
    with counting():
        assert torch.empty(2, 3).tolist() == [[0.5] * 3] * 2
        assert torch.empty(2, dtype=torch.int64).tolist() == [0, 0]
        assert (float(torch.empty(())), int(torch.empty(())), bool(torch.empty(()))) == (0.5, 0, True)
        assert torch.empty((), dtype=torch.int32).item() == 0
        assert true.tolist() == [[1.5, 2.0]]


@pytest.mark.parametrize(("device", "dtype"), [("cuda", torch.float32), ("cpu", torch.bfloat16)])
def test_under_autocast_norms_are_in_float32_on_a_gpu_alone(device: str, dtype: torch.dtype) -> None:
    with counting(device), torch.autocast("cpu", torch.bfloat16):
        x, weight = torch.empty(2, 8, 4, dtype=torch.bfloat16), torch.empty(8, dtype=torch.bfloat16)
        assert functional.group_norm(x, 2, weight, weight).dtype == dtype
        assert functional.layer_norm(x, (4,)).dtype == dtype
    with counting(device):
        assert functional.layer_norm(torch.empty(2, 4, dtype=torch.bfloat16), (4,)).dtype == torch.bfloat16


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_attention_keeps_no_matrix_of_all_tokens_and_is_in_half_under_autocast(device: str) -> None:
    with counting(device) as counter:
        q, k, v = (torch.empty(1, 2, 1024, 8) for _ in range(3))
        before = counter.now
        with torch.autocast("cpu", torch.bfloat16):
            answer = functional.scaled_dot_product_attention(q, k, v)
        assert counter.peak - before < 1024 * 1024
        assert (answer.dtype, answer.shape) == (torch.bfloat16, (1, 2, 1024, 8))
        assert functional.scaled_dot_product_attention(q, k, v).dtype == torch.float32
