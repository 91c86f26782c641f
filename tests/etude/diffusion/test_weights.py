"""Weights learned in place and swapped for a while."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from etude.base.base import Base
from etude.base.loading import load_base
from etude.core.errors import FormatError
from etude.diffusion.weights import learning, parameters_of, parts_of, swapped


def weights(base: Base) -> dict[str, Tensor]:
    return {
        f"{part}.{name}": parameter.data.clone()
        for part, module in parts_of(base).items()
        for name, parameter in module.named_parameters()
    }


def test_learning_gives_leaves_by_name_and_leaving_brings_back_what_was(base: Base) -> None:
    before = weights(base)
    with learning(parts_of(base), lambda name: not name.endswith("bias")) as parameters:
        assert all(p.requires_grad and p.is_leaf for p in parameters.values())
        assert not [name for name in parameters if ".text_model." in name or name.endswith("bias")]
        assert {name.partition(".")[0] for name in parameters} == set(parts_of(base))
        with torch.no_grad():
            for parameter in parameters.values():
                parameter.add_(1)
                parameter.grad = torch.ones_like(parameter)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(base).items())
    for module in parts_of(base).values():
        assert not [p for p in module.parameters() if p.requires_grad or p.grad is not None]


def test_swapped_weights_are_the_artifacts_to_the_bit_and_half_of_them_lie_half_way(base: Base) -> None:
    before = weights(base)
    with learning(parts_of(base)) as parameters:
        changed = {name: p.detach() + torch.randn(p.shape, dtype=p.dtype) for name, p in parameters.items()}
    with swapped(base, changed):
        inside = weights(base)
    with swapped(base, changed, strength=0.5):
        half = weights(base)
    for name, tensor in before.items():
        full = changed[name.replace(".text_model.", ".")]
        assert torch.equal(inside[name], full), name
        torch.testing.assert_close(half[name], (tensor + full) / 2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(base).items())


def test_the_full_strength_is_the_artifact_to_the_bit_also_where_a_difference_is_rounded(tiny_base: Path) -> None:
    base = load_base(tiny_base, parts=("unet",))
    name, parameter = next(iter(parameters_of("unet", base.unet).items()))
    after = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 1e-3
    before = parameter.detach()
    assert not torch.equal(before + (after - before), after)  # so W + (W' - W) would not do
    with swapped(base, {name: after}):
        assert torch.equal(parameter.data, after)


def test_a_part_of_a_change_is_computed_in_float32_and_rounded_once(tiny_base: Path) -> None:
    base = load_base(tiny_base, dtype=torch.bfloat16, parts=("unet",))
    name, parameter = next(iter(parameters_of("unet", base.unet).items()))
    before = parameter.detach().float()
    after = before + torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 1e-2
    with swapped(base, {name: after}, strength=0.7):
        assert torch.equal(parameter.data, (before + 0.7 * (after - before)).bfloat16())


def test_weights_of_another_base_are_refused_and_nothing_is_changed(sd1: Base) -> None:
    before = weights(sd1)
    name = next(name for name in before if name.startswith("unet."))
    with pytest.raises(FormatError, match=r"such as unet\.other"), swapped(sd1, {"unet.other": torch.zeros(1)}):
        pass
    for strength in (0.5, 1.0):
        with pytest.raises(FormatError, match="but in the base it has"), swapped(sd1, {name: torch.zeros(1)}, strength):
            pass
    assert all(torch.equal(tensor, before[key]) for key, tensor in weights(sd1).items())
