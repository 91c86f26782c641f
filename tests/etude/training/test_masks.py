"""Masks of pictures in the loss: of every method that has the key, and the refusal of a set without any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.base.loading import load_base
from etude.core.errors import InputError
from etude.core.method import load_method, method_names, needs
from etude.training.masks import MaskedLoss, refuse_no_masks
from etude.training.report import Report
from tests.pipelines.learning import image_set, params_of, views

METHODS = [name for name in method_names() if issubclass(load_method(name).Params, MaskedLoss)]
PLAIN = {
    "steps": 1,
    "optimizer": {"kind": "sgd", "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0},
    "learning_rate": 1.0,
    "clip": 0.0,
}
OWN: dict[str, dict[str, Any]] = {"textual_inversion": {"initializer": "cat"}}


def asked(weight: float) -> MaskedLoss:
    return MaskedLoss(unmasked_weight=weight)


def test_the_weight_of_a_cell_is_its_mask_and_at_least_that_of_what_is_black() -> None:
    """OneTrainer's rule; with 0 kohya's."""
    masks = torch.tensor([0.0, 0.05, 0.5, 1.0]).reshape(1, 1, 2, 2)
    assert asked(1.0).cell_weights(masks) is None
    assert asked(0.1).cell_weights(None) is None
    for weight, expected in ((0.1, [0.1, 0.1, 0.5, 1.0]), (0.0, [0.0, 0.05, 0.5, 1.0])):
        found = asked(weight).cell_weights(masks)
        assert found is not None
        assert found.flatten().tolist() == pytest.approx(expected)


def test_masks_that_should_count_and_are_not_there_are_an_error() -> None:
    refuse_no_masks(asked(1.0), [], "data/pets")
    refuse_no_masks(asked(0.1), [None, torch.ones(2, 2)], "data/pets")
    for masks in ([], [None, None]):
        with pytest.raises(InputError, match=r"data/pets: no picture has a mask, and `unmasked_weight` is 0.1\."):
            refuse_no_masks(asked(0.1), masks, "data/pets")


@pytest.mark.parametrize("method", METHODS)
def test_what_a_mask_leaves_black_is_not_learned_and_masks_that_are_not_used_change_no_bit(
    method: str, tiny_base: Path, tmp_path: Path
) -> None:
    base = load_base(tiny_base)
    data = image_set(base)
    black = [torch.zeros_like(mean[0]) for mean in data["images"].mean]
    masked = replace(data["images"], attention=black)

    def learned(name: str, images: Any, weight: float) -> dict[str, torch.Tensor]:
        changes = OWN.get(method, {}) | {"unmasked_weight": weight, "save": "fp32"}
        if "prior_weight" in load_method(method).Params.model_fields:
            changes |= {"prior_weight": 0.0}
        given = data | {"images": images, "views": views(images)}
        given = {need: given[need] for need in needs(load_method(method))}
        report = Report(tmp_path / name, seed=3, device="cpu", precision="fp32")
        params = params_of(method, PLAIN, **changes)
        return dict(load_method(method).build(base=base, **given, params=params, report=report).tensors)

    usual, unused = learned("usual", data["images"], 1.0), learned("unused", masked, 1.0)
    none, half = learned("none", masked, 0.0), learned("half", masked, 0.5)
    moved = [name for name in usual if not torch.equal(usual[name], none[name])]
    assert moved
    for name in usual:
        assert torch.equal(usual[name], unused[name])
    for name in moved:  # one step of plain gradient descent goes half as far
        torch.testing.assert_close(half[name] - none[name], (usual[name] - none[name]) / 2, rtol=1e-2, atol=1e-5)
