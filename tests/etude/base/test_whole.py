"""Whole models are complete: all readers accept the same files, and name what is missing."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
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


def test_a_tensor_of_another_shape_is_named_with_both(single: Callable[[Change], Path]) -> None:
    path = single(lambda tensors: tensors.update({f"{U}out.2.bias": torch.zeros(7)}))
    with pytest.raises(BaseError, match=r"`unet\.conv_out\.bias` is \[7\], but its configuration asks for \[4\]"):
        read_model(path)


@pytest.mark.parametrize("name", ["vae.safetensors", "vae.vae.pt"])
@pytest.mark.parametrize("prefix", ["", V])
def test_a_model_without_a_vae_may_get_one(
    single: Callable[[Change], Path], folder_of: Callable[[str], Path], prefix: str, name: str, tmp_path: Path
) -> None:
    vae: dict[str, Tensor] = {}

    def remove(tensors: dict[str, Tensor]) -> None:
        for key in [key for key in tensors if key.startswith(V)]:
            vae[prefix + key.removeprefix(V)] = tensors.pop(key)

    path, whole = single(remove), read_model(folder_of("sd1"))[0]
    with pytest.raises(BaseError, match=r"lacks first_stage_model\.\*.*--vae"):
        read_model(path)
    save_file(vae, tmp_path / name) if name.endswith(".safetensors") else torch.save(
        {"state_dict": vae}, tmp_path / name
    )
    for given in (tmp_path / name, folder_of("sd1"), folder_of("sd1") / "vae"):
        found = read_model(path, vae=given)[0]
        assert set(found) == set(whole)
        assert all(found[key].equal(tensor) for key, tensor in whole.items())


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


def test_a_missing_vae_and_a_missing_configuration_are_said_to_be_missing(
    single: Callable[[Change], Path], folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(BaseError, match=r"gone\.safetensors: is missing"):
        read_model(single(lambda _: None), vae=tmp_path / "gone.safetensors")
    (tmp_path / "m.config").unlink()
    shutil.copytree(folder_of("sd1"), tmp_path / "m.config")
    (tmp_path / "m.config" / "vae" / "config.json").unlink()
    with pytest.raises(BaseError, match=r"vae/config\.json: is missing"):
        read_model(tmp_path / "m.safetensors")
