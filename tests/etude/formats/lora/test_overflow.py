"""Factors that are finite, and whose product is not: refused by the layer's name, wherever a change is computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from etude import formats
from etude.base.loading import load_base
from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.files import Draft
from etude.core.pickles import write_pickle
from etude.core.weights import allow_nan
from etude.diffusion.factors import added, change
from etude.formats.delta import adobe_delta
from etude.formats.lora import diffusers_lora, kohya_lora
from etude.formats.pairs import scaled

STEM = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_q"
LAYER = r"unet\.mid_block\.attentions\.0\.transformer_blocks\.0\.attn2\.to_q"
KINDS = {
    "lora": {"lora_down.weight": (2, 8), "lora_up.weight": (8, 2)},
    "core": {"lora_down.weight": (2, 8), "lora_up.weight": (8, 2), "lora_mid.weight": (2, 2, 3, 3)},
    "loha": {"hada_w1_a": (8, 2), "hada_w1_b": (2, 8), "hada_w2_a": (8, 2), "hada_w2_b": (2, 8)},
    "lokr": {"lokr_w1": (2, 2), "lokr_w2": (4, 4)},
    "glora": {"a1.weight": (8, 2), "a2.weight": (2, 8), "b1.weight": (8, 2), "b2.weight": (2, 8)},
}


def factors(kind: str, size: float) -> dict[str, Tensor]:
    return {f"{STEM}.{name}": torch.full(shape, size) for name, shape in KINDS[kind].items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_whose_factors_multiply_to_infinity_is_refused_by_the_layer(kind: str, tmp_path: Path) -> None:
    save_file(factors(kind, 1e30), tmp_path / "x.safetensors")
    with pytest.raises(FormatError, match=rf"`{LAYER}` that are so large that the change"):
        kohya_lora.read(tmp_path / "x.safetensors")
    with allow_nan():
        assert kohya_lora.read(tmp_path / "x.safetensors")[0]


def test_an_alpha_that_makes_a_change_infinite_is_refused_and_factors_of_opposite_sizes_are_not(tmp_path: Path) -> None:
    tensors = factors("lora", 1e10) | {f"{STEM}.alpha": torch.tensor(1e20)}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(FormatError, match=LAYER):
        kohya_lora.read(tmp_path / "x.safetensors")
    tensors = factors("lora", 1e30) | {f"{STEM}.lora_up.weight": torch.full((8, 2), 1e-30)}
    save_file(tensors, tmp_path / "y.safetensors")
    assert kohya_lora.read(tmp_path / "y.safetensors")[1]["alpha"] == 2


def test_a_lokr_whose_alpha_in_the_header_makes_a_factor_infinite_is_refused_by_the_factor(tmp_path: Path) -> None:
    tensors = {"unet.x.lokr_w1": torch.full((2, 2), 1e20), "unet.x.lokr_w2": torch.full((4, 4), 1e-20)}
    header = json.dumps({"unet": {"r": 4, "alpha": 1e25, "peft_type": "LOKR"}})
    save_file(tensors, tmp_path / "x.safetensors", {"lora_adapter_metadata": header})
    with pytest.raises(FormatError, match=r"`unet\.x\.lokr_w1`, scaled by 2\.5e\+24, is not finite"):
        diffusers_lora.read(tmp_path / "x.safetensors")


@pytest.mark.parametrize("name", ["kohya_lora", "diffusers_lora", "peft_lora"])
def test_an_artifact_whose_change_is_infinite_is_not_written(name: str, tmp_path: Path) -> None:
    tensors = {"unet.x.lora_A.weight": torch.full((2, 8), 1e30), "unet.x.lora_B.weight": torch.full((8, 2), 1e30)}
    artifact = Artifact("lora", tensors, {"name": "sks", "family": "sd1", "rank": 2, "alpha": 2.0})
    with pytest.raises(FormatError, match=r"`unet\.x`"):
        formats.write(name, artifact, Draft(tmp_path / "out"), lambda: pytest.fail("no LoRA needs a frame"))
    assert not (tmp_path / "out").exists()


def test_a_change_that_only_the_weight_makes_infinite_is_refused_by_the_layer() -> None:
    weight = torch.full((8, 8), 1e20)
    with pytest.raises(FormatError, match=r"change of `unet\.x` is not finite in float32"):
        change("unet.x", {"ia3_out": torch.full((8,), 1e30)}, 1.0, weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_strength_or_a_precision_that_cannot_hold_a_change_is_refused(tiny_base: Path, dtype: torch.dtype) -> None:
    base = load_base(tiny_base, dtype=dtype, parts=("unet",))
    weight = base.unet.conv_in.weight
    tensors = {"unet.conv_in.diff": torch.full(weight.shape, 1e5)}
    strength = {torch.float16: 1.0, torch.float32: 1e38}[dtype]
    with pytest.raises(FormatError, match=r"unet\.conv_in"), added(base, tensors, {"alpha": 1.0}, strength):
        pass
    assert base.unet.conv_in.weight is weight
    assert not base.unet.conv_in._forward_hooks


def test_a_row_of_zeros_stays_one_under_dora() -> None:
    weight = torch.ones(4, 4)
    weight[1] = 0
    f = {"lora_A.weight": torch.ones(1, 4), "lora_B.weight": torch.zeros(4, 1), "dora_scale": torch.full((4, 1), 6.0)}
    after = weight + change("x", f, 1.0, weight)
    assert torch.equal(after, torch.tensor([[3.0], [0.0], [3.0], [3.0]]).expand(4, 4))


HUGE = {"lora_A.weight": torch.full((1, 4), 1e30), "lora_B.weight": torch.ones(4, 1), "dora_scale": torch.ones(4, 1)}


@pytest.mark.parametrize("factors", [HUGE, {"oft_blocks": torch.tensor([[[0, 1e30], [-1e30, 0]]] * 2)}])
def test_a_length_that_is_infinite_is_refused_and_does_not_make_rows_or_rotations_zero(
    factors: dict[str, Tensor],
) -> None:
    with pytest.raises(FormatError, match=r"`x(\.oft_blocks)?` is not finite in float32"):
        change("x", factors, 1.0, torch.ones(4, 4))


def test_the_two_factors_of_a_compressed_delta_are_refused_if_their_product_is_infinite(tmp_path: Path) -> None:
    halves = {"u": torch.full((8, 2), 1e30), "v": torch.full((2, 8), 1e30)}
    data = {"unet": {"mid_block.x.to_k.weight": halves}, "modifier_token": {"<new1>": torch.ones(8)}}
    write_pickle(tmp_path / "delta.bin", data)
    with pytest.raises(FormatError, match=r"product of the factors of `mid_block\.x\.to_k\.weight`"):
        adobe_delta.read(tmp_path / "delta.bin")


def test_a_number_multiplied_into_a_tensor_keeps_its_precision_only_where_that_is_exact() -> None:
    half = torch.tensor([1.0, 0.333], dtype=torch.float16)
    assert scaled(half, 0.5).dtype == torch.float16
    assert torch.equal(scaled(half, 0.3), half.float() * 0.3)
    assert torch.equal(scaled(half * 60000, 4.0), (half * 60000).float() * 4)
