"""A VAE in place of a model's: it brings its own configuration, and is refused if that cannot be used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor

from commands.convert import convert
from etude.base.loading import load_base, read_kind
from etude.base.single import CONFIGS, vae_config
from etude.base.vae import own_config, read_with_vae
from etude.base.whole import read_model
from etude.core.artifact import Artifact
from etude.core.errors import BaseError, EtudeWarning
from etude.core.files import Draft
from etude.formats.checkpoint import diffusers_checkpoint
from etude.formats.checkpoints import Frame
from tasks.export import configuration
from tests.etude.base.ldm import to_ldm
from tests.etude.conftest import change

V = "first_stage_model."
UNSCALED = "ignore:.*has no configuration, so its latents are scaled by"


@pytest.fixture
def without(folder_of: Callable[[str], Path], tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    """A single file of sd1 without its VAE, and the VAE in LDM's names without a prefix."""
    tensors = {name: tensor.contiguous() for name, tensor in to_ldm(folder_of("sd1"), "sd1").items()}
    vae = {name.removeprefix(V): tensors.pop(name) for name in list(tensors) if name.startswith(V)}
    save_file(tensors, tmp_path / "m.safetensors")
    (tmp_path / "m.config").symlink_to(folder_of("sd1"))
    return tmp_path / "m.safetensors", vae


@pytest.mark.filterwarnings(UNSCALED)
@pytest.mark.parametrize("name", ["vae.safetensors", "vae.vae.pt"])
@pytest.mark.parametrize("prefix", ["", V])
def test_a_model_without_a_vae_may_get_one(
    prefix: str, name: str, without: tuple[Path, dict[str, Tensor]], folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    path, vae = without
    named, whole = {prefix + key: tensor for key, tensor in vae.items()}, read_model(folder_of("sd1"))[0]
    with pytest.raises(BaseError, match=r"lacks first_stage_model\.\*.*--vae"):
        read_model(path)
    if name.endswith(".pt"):
        torch.save({"state_dict": named}, tmp_path / name)
    else:
        save_file(named, tmp_path / name)
    for given in (tmp_path / name, folder_of("sd1"), folder_of("sd1") / "vae"):
        found = read_with_vae(path, given)[0]
        assert set(found) == set(whole)
        assert all(found[key].equal(tensor) for key, tensor in whole.items())


@pytest.fixture
def folder_without(folder_of: Callable[[str], Path], tmp_path: Path) -> Path:
    """A folder of sd1 without its VAE, as some programs write it."""
    folder = Path(shutil.copytree(folder_of("sd1"), tmp_path / "no_vae", ignore=shutil.ignore_patterns("vae")))
    change(folder / "model_index.json", vae=[None, None])
    return folder


def test_a_folder_without_a_vae_may_get_one(
    folder_without: Path, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(BaseError, match=r"no_vae: lacks vae, .*--vae FILE"):
        read_model(folder_without)
    assert read_kind(folder_without) == read_kind(folder_of("sd1"))
    convert(str(folder_without), "diffusers_checkpoint", tmp_path / "out", name="whole", vae=folder_of("sd1"))
    whole = read_model(folder_of("sd1"))[0]
    found = load_base(tmp_path / "out/whole")
    assert all(found.vae.state_dict()[name[4:]].equal(whole[name]) for name in whole if name.startswith("vae."))
    assert json.loads((tmp_path / "out/whole/model_index.json").read_text())["vae"] == ["diffusers", "AutoencoderKL"]
    assert DiffusionPipeline.from_pretrained(tmp_path / "out/whole", local_files_only=True).vae is not None
    convert(str(folder_without), "ldm_checkpoint", tmp_path / "out", name="single", vae=folder_of("sd1") / "vae")
    assert set(read_model(tmp_path / "out/single.safetensors")[0]) == set(whole)


def test_a_folder_without_a_vae_needs_one_with_a_configuration_unless_it_has_usual_widths(
    folder_without: Path, without: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    save_file(without[1], tmp_path / "alone.safetensors")
    with pytest.raises(BaseError, match=r"no_vae: does not have the widths .* Next: give a VAE that has its config"):
        read_with_vae(folder_without, tmp_path / "alone.safetensors")
    for levels in (3, [], None):
        change(folder_without / "unet/config.json", block_out_channels=levels)
        with pytest.raises(BaseError, match="does not have the widths"):
            vae_config(folder_without, "sd1")
    change(folder_without / "unet/config.json", block_out_channels=[320, 640, 1280, 1280], cross_attention_dim=768)
    assert vae_config(folder_without, "sd1") == CONFIGS / "sd1/vae"


def test_a_vae_file_without_a_configuration_says_how_its_latents_are_scaled(
    without: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    path, vae = without
    save_file(vae, tmp_path / "alone.safetensors")
    with pytest.warns(EtudeWarning, match=r"alone\.safetensors: has no config.* scaled by 0\.18215, as those of .*m\."):
        read_with_vae(path, tmp_path / "alone.safetensors")


@pytest.mark.filterwarnings(UNSCALED)
def test_a_vae_file_may_name_a_tensor_twice_but_not_with_two_values(
    without: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    path, vae = without
    name = "quant_conv.bias"
    for other, shown in ((V + name, V + name), ("decoder.mid_block.resnets.0.norm1.bias", "decoder.mid.block_1.norm1")):
        same = vae[name] if other.endswith(name) else vae["decoder.mid.block_1.norm1.bias"]
        torch.save(vae | {other: same.clone()}, tmp_path / "a.vae.pt")
        read_with_vae(path, tmp_path / "a.vae.pt")
        torch.save(vae | {other: same + 1}, tmp_path / "a.vae.pt")
        with pytest.raises(BaseError, match=f"has one tensor under two names, with different numbers.*{shown}"):
            read_with_vae(path, tmp_path / "a.vae.pt")


def test_a_vae_comes_with_its_own_configuration(without: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    path, _ = without
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    other = AutoencoderKL(block_out_channels=(8, 8, 8, 8), norm_num_groups=4, scaling_factor=0.5, **kinds)
    other.save_pretrained(tmp_path / "other")
    for vae in (tmp_path / "other", tmp_path / "other/diffusion_pytorch_model.safetensors"):
        tensors, facts = read_with_vae(path, vae)
        made = Artifact("model_merge", tensors, {"name": vae.stem, **facts})
        diffusers_checkpoint.write(made, Draft(tmp_path), Frame({}, configuration(path, vae)))
        base = load_base(tmp_path / vae.stem)
        assert base.scaling_factor == 0.5
        assert base.vae.config.norm_num_groups == 4
        assert all(base.vae.state_dict()[name].equal(tensor) for name, tensor in other.state_dict().items())


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"shift_factor": 0.1}, "shifts latents"),
        ({"latents_mean": [0.0, 1.0, 0.0, 0.0]}, "shifts latents"),
        ({"scaling_factor": 0}, "scaling_factor 0"),
        ({"latent_channels": 16}, "16 latent channels"),
        ({"block_out_channels": [8, 16, 24]}, r"\[8, 16, 24\]"),
        ({"_class_name": "AutoencoderTiny"}, "AutoencoderTiny"),
    ],
    ids=str,
)
def test_a_vae_of_another_kind_is_refused(
    values: dict[str, object], fault: str, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    vae = Path(shutil.copytree(folder_of("sd1") / "vae", tmp_path / "vae"))
    change(vae / "config.json", **values)
    with pytest.raises(BaseError, match=f"{fault}.* Next: "):
        read_with_vae(folder_of("sd1"), vae)


def test_a_missing_vae_is_said_to_be_missing_before_the_model_is_read(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match=r"gone\.safetensors: is missing.* Next: correct"):
        read_with_vae(tmp_path / "no-model", tmp_path / "gone.safetensors")


def test_the_vae_of_a_whole_file_has_the_configuration_beside_it(
    without: tuple[Path, dict[str, Tensor]], folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    assert own_config(without[0]) == tmp_path / "m.config/vae"
    assert own_config(folder_of("sd1")) == folder_of("sd1") / "vae"
    for name in ("alone", "diffusion_pytorch_model"):
        save_file(without[1], tmp_path / f"{name}.safetensors")
        assert own_config(tmp_path / f"{name}.safetensors") is None
    (tmp_path / "config.json").write_text("{}")
    assert own_config(tmp_path / "alone.safetensors") is None
    assert own_config(tmp_path / "diffusion_pytorch_model.safetensors") == tmp_path
