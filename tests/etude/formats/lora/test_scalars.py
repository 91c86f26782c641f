"""LyCORIS' `use_scalar`: a learned number that multiplies the change of a layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from etude.core.errors import FormatError
from etude.diffusion.factors import change
from etude.formats.lora import kohya_lora
from tests.etude.formats.test_layers import LAYER, STEM, tensors_of


def read(folder: Path, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    save_file(tensors, folder / "a.safetensors")
    return kohya_lora.read(folder / "a.safetensors")


def changed(tensors: dict[str, Tensor], facts: dict[str, Any]) -> Tensor:
    factors = {name.removeprefix(f"{LAYER}."): tensor for name, tensor in tensors.items()}
    return change(LAYER, factors, facts["alpha"], torch.zeros(16, 16))


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr", "glora"])
def test_the_change_of_a_layer_is_multiplied_by_its_scalar(tmp_path: Path, kind: str) -> None:
    plain = tensors_of(kind)
    plain.pop(f"{STEM}.scalar", None)
    plain[f"{STEM}.alpha"] = torch.tensor(2.0)
    half = {**plain, f"{STEM}.scalar": torch.tensor(0.5)}
    expected = changed(*read(tmp_path, plain))
    torch.testing.assert_close(changed(*read(tmp_path, half)), 0.5 * expected)
    assert expected.abs().max() > 0


def test_a_difference_is_multiplied_by_its_scalar_and_that_of_the_bias_is_not(tmp_path: Path) -> None:
    tensors = tensors_of("full")
    found, _ = read(tmp_path, {**tensors, f"{STEM}.scalar": torch.tensor(0.5)})
    torch.testing.assert_close(found[f"{LAYER}.diff"], 0.5 * tensors[f"{STEM}.diff"])
    torch.testing.assert_close(found[f"{LAYER}.diff_b"], tensors[f"{STEM}.diff_b"])


@pytest.mark.parametrize("kind", ["oft", "boft", "ia3"])
def test_a_scalar_beside_what_it_cannot_multiply_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(FormatError, match=r"holds what belongs to no LoRA that Étude knows.*to_q"):
        read(tmp_path, {**tensors_of(kind), f"{STEM}.scalar": torch.tensor(0.5)})
