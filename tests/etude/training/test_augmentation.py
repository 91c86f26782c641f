"""Sizes of larger views."""

from __future__ import annotations

import pytest

from etude.training.augmentation import Augmentation

BLOCK = {"views": 2, "smaller": 0.5, "smallest": 0.3, "largest": [1.2, 1.4], "far_below": 0.6, "seed": 0}


@pytest.mark.parametrize("largest", [[1.0, 1.0], [1.0, 1.4], [1.3, 1.3]])
def test_a_larger_view_is_as_large_as_the_picture_or_larger(largest: list[float]) -> None:
    assert list(Augmentation(**BLOCK | {"largest": largest}).largest) == largest  # type: ignore[arg-type]


@pytest.mark.parametrize("largest", [[0.99, 1.4], [1.4, 1.3], [0.9, 0.9]])
def test_sizes_in_another_order_are_refused(largest: list[float]) -> None:
    with pytest.raises(ValueError, match=r"write \[from, to\] with 1 ≤ from ≤ to"):
        Augmentation(**BLOCK | {"largest": largest})  # type: ignore[arg-type]
