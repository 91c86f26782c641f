"""The factors of a layer in LoRA files: all that belong together are there, or the missing one is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from etude.core.errors import FormatError
from etude.formats.lora import kohya_lora
from tests.fuzz.loras import KINDS, LAYERS

LAYER, (STEM, *_) = next(iter(LAYERS.items()))
NOT_NEEDED = {"alpha", "scalar", "dora_scale", "rescale", "diff", "diff_b"}
NEEDED = [(kind, suffix) for kind, shapes in KINDS.items() for suffix in shapes if suffix not in NOT_NEEDED]


def tensors_of(kind: str) -> dict[str, Tensor]:
    """A layer of the kind, [16, 16], as kohya and LyCORIS write it."""
    source = torch.Generator().manual_seed(0)
    tensors = {f"{STEM}.{suffix}": torch.randn(shape, generator=source) for suffix, shape in KINDS[kind].items()}
    return tensors | ({f"{STEM}.on_input": torch.tensor(1)} if kind == "ia3" else {})


@pytest.mark.parametrize(("kind", "lost"), [(kind, lost) for kind, lost in NEEDED if kind != "boft"])
def test_a_layer_without_one_of_its_factors_is_refused_with_the_name_of_the_factor(
    tmp_path: Path, kind: str, lost: str
) -> None:
    tensors = tensors_of(kind)
    del tensors[f"{STEM}.{lost}"]
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(FormatError, match=rf"`{re.escape(LAYER)}` has no {re.escape(lost)}\. Next: fetch"):
        kohya_lora.read(tmp_path / "a.safetensors")


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 2), (2, 4, 4, 2)])
def test_blocks_of_a_rotation_that_are_not_square_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    save_file({f"{STEM}.oft_blocks": torch.zeros(shape)}, tmp_path / "a.safetensors")
    with pytest.raises(FormatError, match=r"has factors that do not fit: oft_blocks"):
        kohya_lora.read(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("kind", "alpha"), [("lora", 4), ("loha", 4), ("full", 1), ("ia3", 1), ("oft", 0), ("boft", 0)]
)
def test_a_file_without_alphas_has_that_which_changes_nothing(tmp_path: Path, kind: str, alpha: float) -> None:
    """The rank, where there is one; no bound of a rotation."""
    tensors = {name: tensor for name, tensor in tensors_of(kind).items() if not name.endswith((".alpha", ".scalar"))}
    save_file(tensors, tmp_path / "a.safetensors")
    assert kohya_lora.read(tmp_path / "a.safetensors")[1]["alpha"] == alpha


@pytest.mark.parametrize(("suffix", "factor"), [("diff_b", "diff_b"), ("b_norm", "diff_b"), ("w_norm", "diff")])
def test_a_layer_may_have_a_difference_of_its_bias_or_its_norm_alone(tmp_path: Path, suffix: str, factor: str) -> None:
    save_file({f"{STEM}.{suffix}": torch.full((16,), 3.0)}, tmp_path / "a.safetensors")
    found, facts = kohya_lora.read(tmp_path / "a.safetensors")
    assert {name: tensor.tolist() for name, tensor in found.items()} == {f"{LAYER}.{factor}": [3.0] * 16}
    assert facts == {"rank": 1, "alpha": 1.0}


def test_a_layer_of_a_kernel_in_three_dimensions_is_refused(tmp_path: Path) -> None:
    shapes = {"lora_down.weight": (2, 4, 1, 1, 1), "lora_up.weight": (4, 2, 1, 1, 1)}
    save_file({f"{STEM}.{name}": torch.ones(shape) for name, shape in shapes.items()}, tmp_path / "a.safetensors")
    with pytest.raises(FormatError, match=r"has factors that do not fit: lora_down\.weight \[2, 4, 1, 1, 1\]"):
        kohya_lora.read(tmp_path / "a.safetensors")


def test_an_alpha_without_a_layer_is_left_out_and_alone_is_no_lora(tmp_path: Path) -> None:
    lonely = {f"{STEM.replace('to_q', 'to_k')}.alpha": torch.tensor(3.0)}
    save_file(tensors_of("lora") | lonely, tmp_path / "a.safetensors")
    assert not [name for name in kohya_lora.read(tmp_path / "a.safetensors")[0] if "to_k" in name]
    save_file(lonely, tmp_path / "a.safetensors")
    with pytest.raises(FormatError, match="holds no LoRA"):
        kohya_lora.read(tmp_path / "a.safetensors")


@pytest.mark.parametrize("missing", ["weight", "on_input"])
@pytest.mark.parametrize("on_input", [0, 1])
def test_a_vector_of_ia3_is_by_inputs_or_outputs_as_it_says(tmp_path: Path, on_input: int, missing: str) -> None:
    tensors = tensors_of("ia3") | {f"{STEM}.on_input": torch.tensor(on_input)}
    save_file(tensors, tmp_path / "a.safetensors")
    found, _ = kohya_lora.read(tmp_path / "a.safetensors")
    assert list(found) == [f"{LAYER}.ia3_in" if on_input else f"{LAYER}.ia3_out"]
    del tensors[f"{STEM}.{missing}"]
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(FormatError, match=f"has no {missing}"):
        kohya_lora.read(tmp_path / "a.safetensors")
