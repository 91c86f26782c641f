"""Whole models are complete: all readers accept the same files, and name what is missing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from etude.base.whole import read_model
from etude.core.errors import BaseError, EtudeWarning
from tests.etude.base.ldm import to_ldm

U, V, T = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
Change = Callable[[dict[str, Tensor]], object]


@pytest.fixture
def single(folder_of: Callable[[str], Path], tmp_path: Path) -> Callable[[Change], Path]:
    """An LDM file of sd1 with its configuration beside it, once a function changed its tensors."""

    def write(change: Change) -> Path:
        folder = folder_of("sd1")
        tensors = {name: tensor.contiguous() for name, tensor in to_ldm(folder, "sd1").items()}
        change(tensors)
        save_file(tensors, tmp_path / "m.safetensors")
        if not (tmp_path / "m.config").exists():
            (tmp_path / "m.config").symlink_to(folder)
        return tmp_path / "m.safetensors"

    return write


@pytest.mark.parametrize(
    "added",
    [
        {f"{V}loss.logvar": torch.zeros(()), f"{V}loss.discriminator.main.0.weight": torch.zeros(4, 3, 4, 4)},
        {f"{V}model_ema.decay": torch.tensor(0.9), "model_ema.num_updates": torch.tensor(5)},
        {f"{T}text_projection.weight": torch.eye(32), f"{T}logit_scale": torch.tensor(4.6)},
        {f"{T}logit_scale": torch.tensor(1)},  # kohya's, in files of SD 2.x
        {f"{T}text_model.embeddings.position_ids": torch.arange(77)[None].float()},
        {f"{V}loss.nan": torch.full((3,), torch.nan), "betas": torch.full((3,), torch.nan)},
    ],
)
def test_what_programs_write_besides_is_left_out(single: Callable[[Change], Path], added: dict[str, Tensor]) -> None:
    plain = read_model(single(lambda _: None))[0]
    found = read_model(single(lambda tensors: tensors.update(added)))[0]
    assert set(found) == set(plain)
    assert all(found[name].equal(tensor) for name, tensor in plain.items())


def test_what_no_model_has_is_left_out_and_said(single: Callable[[Change], Path]) -> None:
    path = single(lambda tensors: tensors.update({f"{U}lora_something.alpha": torch.tensor(1.0)}))
    with pytest.warns(EtudeWarning, match=r"1 tensors are of no part of the model.*unet\.lora_something\.alpha"):
        read_model(path)


def test_missing_tensors_are_counted_and_the_first_are_named(single: Callable[[Change], Path]) -> None:
    path = single(lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith(f"{U}out.")])
    with pytest.raises(BaseError, match=r"lacks 4 tensors: unet\.conv_norm_out\.weight, .* …"):
        read_model(path)


def test_three_missing_tensors_are_all_named(single: Callable[[Change], Path]) -> None:
    lost = [f"{U}out.0.weight", f"{U}out.0.bias", f"{U}out.2.bias"]
    path = single(lambda tensors: [tensors.pop(name) for name in lost])
    named = r"unet\.conv_norm_out\.weight, unet\.conv_norm_out\.bias, unet\.conv_out\.bias"
    with pytest.raises(BaseError, match=rf"lacks 3 tensors: {named}\. Next"):
        read_model(path)


def test_a_tensor_of_another_shape_is_named_with_both(single: Callable[[Change], Path]) -> None:
    path = single(lambda tensors: tensors.update({f"{U}out.2.bias": torch.zeros(7)}))
    with pytest.raises(
        BaseError, match=r"`unet\.conv_out\.bias` is \[7\], but its configuration asks for \[4\]\. Next"
    ):
        read_model(path)
    path = single(lambda tensors: tensors.update({f"{U}out.2.bias": torch.zeros(7), f"{U}out.0.bias": torch.zeros(7)}))
    with pytest.raises(BaseError, match=r"asks for \[\d+\]; 1 more tensors do not fit either\. Next"):
        read_model(path)


@pytest.mark.parametrize(
    "name",
    [
        "control_model.input_blocks.0.0.weight",
        "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight",
        "embedding_manager.string_to_param_dict.*",
    ],
)
def test_what_is_below_no_prefix_of_a_model_is_left_out_and_said(single: Callable[[Change], Path], name: str) -> None:
    path = single(lambda tensors: tensors.update({name: torch.ones(2)}))
    with pytest.warns(EtudeWarning, match=rf"1 tensors are of no part of the model.*{re.escape(name)}") as found:
        read_model(path, ["unet"])
    assert len(found) == 1


def test_the_schedules_of_the_first_code_are_usual(single: Callable[[Change], Path]) -> None:
    names = ("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "log_one_minus_alphas_cumprod")
    names += ("posterior_variance", "posterior_mean_coef1", "logvar", "denoiser.sigmas", "global_step")
    read_model(single(lambda tensors: tensors.update({name: torch.ones(2) for name in names})))


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_an_unknown_tensor_of_openclip_is_left_out_and_said(
    folder_of: Callable[[str], Path], family: str, tmp_path: Path
) -> None:
    prefix = {"sd2": "cond_stage_model.model.", "sdxl": "conditioner.embedders.1.model."}[family]
    tensors = {name: tensor.contiguous() for name, tensor in to_ldm(folder_of(family), family).items()}
    (tmp_path / "m.config").symlink_to(folder_of(family))
    added = {f"{prefix}transformer.resblocks.0.adapter.weight": torch.ones(2), f"{prefix}extra": torch.ones(2)}
    added["conditioner.embedders.2.weight" if family == "sdxl" else "conditional.2.weight"] = torch.ones(2)
    save_file(tensors | added, tmp_path / "m.safetensors")
    with pytest.warns(
        EtudeWarning, match=r"3 tensors are of no part.*extra,.*resblocks\.0\.adapter\.weight, con.*\.2\."
    ):
        read_model(tmp_path / "m.safetensors")


def test_a_missing_configuration_is_said_to_be_missing(
    single: Callable[[Change], Path], folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    single(lambda _: None)
    (tmp_path / "m.config").unlink()
    shutil.copytree(folder_of("sd1"), tmp_path / "m.config")
    (tmp_path / "m.config" / "vae" / "config.json").unlink()
    with pytest.raises(BaseError, match=r"vae/config\.json: is missing"):
        read_model(tmp_path / "m.safetensors")


TWICE = {  # a tensor → its other names
    f"{U}input_blocks.0.0.bias": (f"{U}conv_in.bias", "unet.conv_in.bias"),
    f"{V}quant_conv.bias": ("vae.quant_conv.bias",),
    f"{V}encoder.mid.block_1.norm1.bias": (f"{V}encoder.mid_block.resnets.0.norm1.bias",),
    f"{T}text_model.final_layer_norm.bias": (f"{T}final_layer_norm.bias", "text_encoder.final_layer_norm.bias"),
}


@pytest.mark.parametrize(("name", "other"), [(name, other) for name, others in TWICE.items() for other in others])
def test_a_tensor_may_have_two_names_but_not_two_values(
    name: str, other: str, single: Callable[[Change], Path]
) -> None:
    plain = read_model(single(lambda _: None))[0]
    found = read_model(single(lambda tensors: tensors.update({other: tensors[name].double()})))[0]
    assert set(found) == set(plain)
    with pytest.raises(
        BaseError, match=rf"one tensor under two names, with .*`({re.escape(name)}|{re.escape(other)})`.* and `"
    ):
        read_model(single(lambda tensors: tensors.update({other: tensors[name] + 1})))


def test_a_tensor_in_two_shards_with_two_values_is_refused(copy: Path) -> None:
    tensors = load_file(copy / "vae/diffusion_pytorch_model.safetensors")
    (copy / "vae/diffusion_pytorch_model.safetensors").unlink()
    for number, added in enumerate((0, 1)):
        save_file({name: tensor + added for name, tensor in tensors.items()}, copy / f"vae/{number}.safetensors")
    index = {"weight_map": {"a": "0.safetensors", "b": "1.safetensors"}}
    (copy / "vae/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BaseError, match=r"`.* in 0\.safetensors` and `.* in 1\.safetensors`"):
        read_model(copy, ["vae"])
