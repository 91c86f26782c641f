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


def test_each_pair_of_rows_turns_by_its_own_angle_whatever_their_lengths() -> None:
    one = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]], dtype=torch.float64)
    other = torch.tensor([[0.0, 4.0], [5.0, 0.0], [0.5, 0.75**0.5]], dtype=torch.float64)
    found = slerp(one, other, 1 / 3)
    thirds = torch.tensor([[3**0.5, 2.0], [2.5, 1.5 * 3**0.5]], dtype=torch.float64)  # a third of 90°: cos 30°, sin 30°
    torch.testing.assert_close(found[:2], thirds)
    angle = torch.deg2rad(torch.tensor(20.0, dtype=torch.float64))  # a third of 60°
    torch.testing.assert_close(found[2], torch.stack([angle.cos(), angle.sin()]))


@pytest.mark.parametrize(("cosine", "straight"), [(0.9994, False), (0.9996, True), (-0.9994, False), (-0.9996, True)])
def test_the_way_is_straight_from_a_cosine_of_0_9995_on(cosine: float, straight: bool) -> None:
    one = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    other = torch.tensor([[cosine, (1 - cosine**2) ** 0.5]], dtype=torch.float64)
    assert torch.equal(slerp(one, other, 0.3), torch.lerp(one, other, 0.3)) is straight
