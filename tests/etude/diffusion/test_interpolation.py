from __future__ import annotations

import pytest
import torch

from etude.diffusion.interpolation import slerp


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_unit_vectors_turn_evenly_and_keep_their_length(share: float) -> None:
    one, angle = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64), 1.2
    other = torch.tensor([[torch.cos(torch.tensor(angle)), torch.sin(torch.tensor(angle)), 0.0]], dtype=torch.float64)
    found = slerp(one, other, share)
    assert float(found.norm()) == pytest.approx(1.0, abs=1e-6)
    assert float(torch.atan2(found[0, 1], found[0, 0])) == pytest.approx(share * angle, abs=1e-6)


@pytest.mark.parametrize("other", [[2.0, 0.0], [-2.0, 0.0], [0.0, 0.0]])
def test_where_there_is_no_turn_the_way_is_straight(other: list[float]) -> None:
    one, end = torch.tensor([[1.0, 0.0]]), torch.tensor([other])
    assert torch.equal(slerp(one, end, 0.25), torch.lerp(one, end, 0.25))
    assert torch.equal(slerp(torch.zeros(1, 2), end, 0.5), end / 2)
