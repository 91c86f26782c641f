"""DoRA's lengths: whose they are follows from their shape, in each kind of layer and in each program's form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.files import Draft
from etude.core.tensors import read_tensors
from etude.formats.lora import diffusers_lora, kohya_lora

STEM, LAYER = "lora_unet_mid_block_resnets_0_conv1", "unet.mid_block.resnets.0.conv1"
OTHER, TEXT = "unet.mid_block.attentions.0.proj_in", "text_encoder.encoder.layers.0.mlp.fc1"
Shape = tuple[int, ...]
KINDS: dict[str, dict[str, Shape]] = {
    "linear": {"lora_down.weight": (2, 10), "lora_up.weight": (6, 2)},
    "convolution": {"lora_down.weight": (2, 10, 3, 3), "lora_up.weight": (6, 2, 1, 1)},
    "loha": {"hada_w1_a": (6, 2), "hada_w1_b": (2, 90), "hada_w2_a": (6, 3), "hada_w2_b": (3, 90)},
    "lokr": {"lokr_w1": (2, 5), "lokr_w2": (3, 2)},
    "lokr of halves": {"lokr_w1": (2, 5), "lokr_w2_a": (3, 1), "lokr_w2_b": (1, 2)},
}


def read(folder: Path, kind: str, lengths: Shape) -> Tensor:
    """The lengths of a layer [6, 10], or with a kernel of 3 × 3."""
    tensors = {f"{STEM}.{name}": torch.ones(shape) for name, shape in KINDS[kind].items()}
    save_file(tensors | {f"{STEM}.dora_scale": torch.ones(lengths)}, folder / "x.safetensors")
    return kohya_lora.read(folder / "x.safetensors")[0][f"{LAYER}.dora_scale"]


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_of_rows_and_of_columns_have_the_axes_of_the_layer(kind: str, tmp_path: Path) -> None:
    """Only the lengths themselves show whether a LoHa or a LoKr is of a convolution."""
    kernel = (1, 1) if kind == "convolution" else ()
    assert read(tmp_path, kind, (6,)).shape == (6, 1, *kernel)
    for more in ((1, 1),) if kernel else ((),) if kind == "linear" else ((), (1, 1)):
        assert read(tmp_path, kind, (6, 1, *more)).shape == (6, 1, *more)
        assert read(tmp_path, kind, (1, 10, *more)).shape == (1, 10, *more)


@pytest.mark.parametrize("shape", [(7,), (7, 1), (1, 7), (1, 6), (10, 1), (6, 10), (2, 3), (1, 1, 10), (1, 20)])
@pytest.mark.parametrize("kind", KINDS)
def test_lengths_of_another_shape_are_refused(kind: str, shape: Shape, tmp_path: Path) -> None:
    if kind == "loha" and shape == (1, 6):
        return  # 90 columns may be those of 6 channels with a kernel of 15
    with pytest.raises(FormatError, match=r"conv1\.dora_scale` is .*: neither \[6, 1\] nor \[1, "):
        read(tmp_path, kind, shape)


def dora(lengths: dict[str, Shape]) -> Artifact:
    """A LoRA of three layers; those with ``lengths`` are DoRA's."""
    shapes: dict[str, tuple[Shape, Shape]] = {LAYER: ((2, 10, 3, 3), (6, 2, 1, 1))}
    shapes |= {OTHER: ((2, 10), (6, 2)), TEXT: ((2, 10), (6, 2))}
    tensors = {}
    for name, (down, up) in shapes.items():
        tensors |= {f"{name}.lora_A.weight": torch.randn(down), f"{name}.lora_B.weight": torch.randn(up)}
    tensors |= {f"{name}.dora_scale": torch.rand(shape) + 0.5 for name, shape in lengths.items()}
    return Artifact("lora", tensors, {"name": "sks", "family": "sd1", "rank": 2, "alpha": 2.0})


def test_a_part_is_dora_as_a_whole_and_comes_back_as_it_was(tmp_path: Path) -> None:
    made = dora({LAYER: (6, 1, 1, 1), OTHER: (6, 1)})
    (path,) = diffusers_lora.write(made, Draft(tmp_path))
    magnitudes = {name: tensor for name, tensor in read_tensors(path)[0].items() if "magnitude" in name}
    assert {name: tuple(tensor.shape) for name, tensor in magnitudes.items()} == {
        f"{LAYER}.lora_magnitude_vector": (1, 6, 1, 1),
        f"{OTHER}.lora_magnitude_vector": (6,),
    }
    tensors, _ = diffusers_lora.read(path)
    assert tensors.keys() == made.tensors.keys()
    assert all(torch.equal(tensors[name], made.tensors[name]) for name in tensors)


def test_a_part_that_is_dora_in_some_layers_is_not_written_where_that_cannot_be_said(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="is DoRA in 1 of 2 layers of unet, but this format needs all or none"):
        diffusers_lora.write(dora({OTHER: (6, 1)}), Draft(tmp_path))


def save(folder: Path, fields: dict[str, Any], more: dict[str, Tensor]) -> Path:
    """Two layers of the UNet in diffusers' form, beside other tensors."""
    pairs = {f"{name}.lora_{half}.weight": torch.ones(2, 2) for name in ("unet.a", "unet.b") for half in "AB"}
    path = folder / "pytorch_lora_weights.safetensors"
    save_file(pairs | more, path, {"lora_adapter_metadata": json.dumps({"unet": {"r": 2, "lora_alpha": 2} | fields})})
    return path


@pytest.mark.parametrize(
    ("fields", "more", "said"),
    [
        ({"use_dora": True}, {}, "says `use_dora: True` of unet, but 0 of 2 layers have a lora_magnitude_vector"),
        ({"use_dora": True}, {"unet.b.lora_magnitude_vector": (2,)}, "True` of unet, but 1 of 2 layers have"),
        ({}, {f"unet.{layer}.lora_magnitude_vector": (2,) for layer in "ab"}, "False` of unet, but 2 of 2 layers have"),
        ({}, {"unet.a.alpha": ()}, "has alphas of unet twice: as tensors and in the configuration"),
        (
            {"use_dora": True},
            {f"unet.{x}.lora_magnitude_vector": (2, 1) for x in "ab"},
            r"is \[2, 1\]: neither \[out\]",
        ),
        (
            {"use_dora": True},
            {f"unet.{x}.lora_magnitude_vector": (2, 2, 1, 1) for x in "ab"},
            r"is \[2, 2, 1, 1\]: nei",
        ),
    ],
)
def test_a_configuration_and_tensors_that_say_different_things_are_refused(
    fields: dict[str, Any], more: dict[str, Shape], said: str, tmp_path: Path
) -> None:
    with pytest.raises(FormatError, match=said):
        diffusers_lora.read(save(tmp_path, fields, {name: torch.ones(shape) for name, shape in more.items()}))


@pytest.mark.parametrize("shape", [(2,), (1, 2, 1, 1)])
def test_lengths_of_peft_are_those_of_rows(shape: Shape, tmp_path: Path) -> None:
    lengths = {f"unet.{layer}.lora_magnitude_vector": torch.full(shape, 3.0) for layer in "ab"}
    tensors, _ = diffusers_lora.read(save(tmp_path, {"use_dora": True}, lengths))
    assert torch.equal(tensors["unet.a.dora_scale"], torch.full((2, 1), 3.0))


@pytest.mark.parametrize("shape", [(2, 1), (2, 2, 1, 1), (1, 2, 2, 1)])
def test_lengths_of_peft_in_another_shape_are_refused(shape: Shape, tmp_path: Path) -> None:
    lengths = {f"unet.{layer}.lora_magnitude_vector": torch.ones(shape) for layer in "ab"}
    with pytest.raises(FormatError, match=r"lora_magnitude_vector` is .*: neither \[out\] nor \[1, out, 1, 1\]"):
        diffusers_lora.read(save(tmp_path, {"use_dora": True}, lengths))
