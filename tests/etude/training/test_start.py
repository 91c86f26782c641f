"""What training continues from: how a start differs from what is learned, and how it is copied."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from etude.core.artifact import Artifact, save
from etude.core.errors import InputError
from etude.training.start import NOTHING, Start, load_start, shape_faults
from tests.pipelines.learning import params_of

WANTED = {"a": (2, 3), "b": (4,)}


@pytest.mark.parametrize(
    ("found", "faults"),
    [
        (WANTED, []),
        ({"a": (2, 3)}, ["lacks 1 of the 2 tensors that this run learns, such as `b`"]),
        ({}, ["lacks 2 of the 2 tensors that this run learns, such as `a`"]),
        (WANTED | {"b": (5,)}, ["its `b` has the shape [5], and this run needs [4]"]),
        (WANTED | {"c": (1,), "d": (1,)}, ["has 2 tensors that this run does not learn, such as `c`"]),
        ({"a": (3, 2), "x.own": (1,)}, [
            "lacks 1 of the 2 tensors that this run learns, such as `b`",
            "its `a` has the shape [3, 2], and this run needs [2, 3]",
        ]),
    ],
)  # fmt: skip
def test_each_difference_of_a_start_is_told_with_both_values(
    found: dict[str, tuple[int, ...]], faults: list[str]
) -> None:
    assert list(shape_faults(found, WANTED, lambda name: name.startswith("x."))) == faults


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """A weight, a difference to a weight, and a weight that nobody learns."""
    tensors = {"a": torch.full((2, 3), 5.0), "b.delta": torch.tensor([1.0, 2.0, 3.0, 4.0]), "c": torch.ones(7)}
    save(Artifact("fine_tuning", tensors, {"family": "sd1"}), tmp_path / "start.safetensors")
    return Start("models/mine.safetensors", tmp_path / "start.safetensors")


def test_a_start_takes_the_place_of_values_and_a_difference_is_added_to_them(start: Start) -> None:
    assert start.shapes == {"a": (2, 3), "b": (4,), "c": (7,)}
    assert start.facts["family"] == "sd1"
    learned = {"a": torch.full((2, 3), 9.0, requires_grad=True), "b": torch.full((4,), 10.0, dtype=torch.float64)}
    start.copy_into(learned)
    assert learned["a"].tolist() == [[5.0] * 3] * 2
    assert learned["b"].tolist() == [11, 12, 13, 14]
    assert learned["a"].requires_grad


@pytest.mark.parametrize("learned", [{"z": torch.ones(1)}, {"a": torch.ones(3, 2)}])
def test_a_start_that_lacks_what_is_learned_or_has_another_shape_is_refused(
    start: Start, learned: dict[str, torch.Tensor]
) -> None:
    with pytest.raises(InputError, match=r"models/mine.safetensors"):
        start.copy_into(learned)


def test_a_method_that_starts_from_scratch_has_no_start(tmp_path: Path) -> None:
    assert load_start(params_of("lora"), tmp_path) is None
    assert load_start(params_of("lora", start=NOTHING), tmp_path) is None
    assert load_start(params_of("model_merge"), tmp_path) is None
    made = load_start(params_of("lora", start="models/mine.safetensors"), tmp_path)
    assert made == Start("models/mine.safetensors", tmp_path / "start.safetensors")
