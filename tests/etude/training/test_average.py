"""The moving average against its formula, written out."""

from __future__ import annotations

import pytest
import torch

from etude.training.average import Average


def test_the_average_follows_faster_at_first_and_then_with_its_decay() -> None:
    w, v = torch.tensor([1.0], requires_grad=True), torch.tensor([[2.0, 3.0]], requires_grad=True)
    average, expected = Average([w, v], 0.5), [1.0, 2.0]
    for step in range(20):
        with torch.no_grad():
            w.add_(1), v.mul_(2)
        average.update(step + 1)
        decay = min(0.5, (1 + step) / (10 + step))
        now = [float(w.detach()[0]), float(v.detach()[0, 0])]
        expected = [decay * old + (1 - decay) * new for old, new in zip(expected, now, strict=True)]
        found = [float(average.values[0][0]), float(average.values[1][0, 0])]
        assert found == pytest.approx(expected, rel=1e-5)
    assert not any(value.requires_grad for value in average.values)


@pytest.mark.parametrize("every", [2, 7])
def test_an_average_of_every_nth_step_differs_at_most_by_how_far_the_parameters_move_in_between(every: int) -> None:
    w = torch.zeros(100, requires_grad=True)
    whole, sparse, moved = Average([w], 0.95), Average([w], 0.95), 0.0
    since: list[torch.Tensor] = []
    for step in range(1, 71):
        with torch.no_grad():
            w.add_(torch.randn(100, generator=torch.Generator().manual_seed(step)), alpha=1 / step)
        since.append(w.detach().clone())
        whole.update(step)
        if step % every == 0:
            sparse.update(step)
            moved = max(moved, max(float((w.detach() - earlier).abs().max()) for earlier in since))
            since.clear()
            assert 0 < float((sparse.values[0] - whole.values[0]).abs().max()) <= moved


def test_of_parameters_that_stay_an_average_of_every_nth_step_is_that_of_every_step() -> None:
    w = torch.zeros(1, requires_grad=True)
    whole, sparse = Average([w], 0.9), Average([w], 0.9)
    with torch.no_grad():
        w.fill_(5)
    for step in range(1, 13):
        whole.update(step)
    sparse.update(12)
    torch.testing.assert_close(sparse.values, whole.values)


@pytest.mark.parametrize("fails", [False, True])
def test_the_parameters_hold_the_average_for_a_while_and_then_what_they_held(fails: bool) -> None:
    w = torch.tensor([1.0], requires_grad=True)
    average = Average([w], 0.9)
    with torch.no_grad():
        w.fill_(7)
    try:
        with average.applied():
            assert (w.item(), average.values[0].item()) == (1, 7)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert w.item() == 7
    assert average.values[0].item() == 1
    average.load()
    assert w.item() == 1


def test_without_a_decay_nothing_is_kept() -> None:
    w = torch.tensor([1.0], requires_grad=True)
    average = Average([w], 0.0)
    average.update(1)
    assert average.values == []
    average.load()
    with average.applied():
        assert w.item() == 1
