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
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        now = [float(w.detach()[0]), float(v.detach()[0, 0])]
        expected = [decay * old + (1 - decay) * new for old, new in zip(expected, now, strict=True)]
        found = [float(average.values[0][0]), float(average.values[1][0, 0])]
        assert found == pytest.approx(expected, rel=1e-5)
    assert not any(value.requires_grad for value in average.values)


@pytest.mark.parametrize("fails", [False, True])
def test_the_parameters_hold_the_average_for_a_while_and_then_what_they_held(fails: bool) -> None:
    w = torch.tensor([1.0], requires_grad=True)
    average = Average([w], 0.9)
    with torch.no_grad():
        w.fill_(7)
    try:
        with average.applied():
            assert w.item() == 1
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert w.item() == 7
    assert average.values[0].item() == 1
    average.load(average.values)
    assert w.item() == 1


def test_without_a_decay_nothing_is_kept() -> None:
    w = torch.tensor([1.0], requires_grad=True)
    average = Average([w], 0.0)
    average.update(0)
    assert average.values == []
    with average.applied():
        assert w.item() == 1
