"""Recognising a base by its architecture, and saying what the rest is."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from etude.base.family import recognise
from etude.core.errors import BaseError
from etude.core.families import FAMILIES
from tests.etude.base.ldm import to_ldm
from tests.etude.conftest import change

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 3438167534\n"
UNET = "model.diffusion_model."


def test_a_folder_is_recognised(folder: Path, family: str) -> None:
    assert recognise(folder) == family


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_single_file_is_recognised(folder: Path, family: str, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"any name{suffix}"
    tensors = {name: tensor.contiguous() for name, tensor in to_ldm(folder, family).items()}
    if suffix == ".ckpt":
        torch.save({"state_dict": tensors}, file)
    else:
        save_file(tensors, file)
    assert recognise(file) == family


def test_the_widths_and_the_name_of_a_base_do_not_count(copy: Path) -> None:
    change(copy / "unet" / "config.json", cross_attention_dim=2048, block_out_channels=[320, 640, 1280, 1280])
    change(copy / "model_index.json", _class_name="StableDiffusionXLPipeline")
    assert recognise(copy) == "sd1"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"in_channels": 9}, "inpainting"),
        ({"in_channels": 8}, "InstructPix2Pix"),
        ({"in_channels": 7}, "7 input channels instead of 4: it is an upscaler"),
        ({"in_channels": 5}, "a depth model"),
        ({"in_channels": 16}, "another model"),
        ({"in_channels": "4"}, "another model"),
        ({"out_channels": 8}, "8 output channels instead of 4"),
        ({"num_class_embeds": 10}, "needs a class"),
        ({"encoder_hid_dim": 10}, "needs another kind of text"),
        ({"encoder_hid_dim_type": "text_proj"}, r"another kind of text \(`encoder_hid_dim_type`\)"),
        ({"class_embed_type": "timestep"}, "`class_embed_type: timestep`: only projection is supported"),
        ({"class_embed_type": "projection"}, "unCLIP"),
        ({"_class_name": "UNet3DConditionModel"}, "UNet3DConditionModel"),
        ({"addition_embed_type": "image"}, "`addition_embed_type: image`"),
    ],
)
def test_another_unet_is_refused_by_its_kind(copy: Path, values: dict[str, object], says: str) -> None:
    change(copy / "unet" / "config.json", **values)
    with pytest.raises(BaseError, match=says):
        recognise(copy)


def test_a_unet_that_leaves_out_what_is_usual_is_recognised(copy: Path) -> None:
    file = copy / "unet/config.json"
    config = json.loads(file.read_text())
    usual = ("in_channels", "out_channels", "_class_name", "class_embed_type", "num_class_embeds")
    file.write_text(json.dumps({name: value for name, value in config.items() if name not in usual}))
    assert recognise(copy) == "sd1"


def test_a_folder_without_a_unet_is_said_to_be_what_its_index_names(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match=r"is no diffusers folder \(it has no unet/config\.json\)"):
        recognise(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(BaseError, match="is a StableDiffusionPipeline without its unet"):
        recognise(tmp_path)
    (tmp_path / "prior").mkdir()
    (tmp_path / "model_index.json").unlink()
    with pytest.raises(BaseError, match="is a model without a UNet, an architecture that no method supports"):
        recognise(tmp_path)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "loop"])
def test_a_name_that_no_file_can_have_is_not_said_to_be_missing(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(BaseError, match=r"cannot be read \(.*Next: check its name and its permissions"):
        recognise(tmp_path / name)


@pytest.mark.parametrize("lost", ["vocab.json", "merges.txt"])
def test_a_tokenizer_is_a_vocabulary_and_merges_or_one_file(copy: Path, lost: str) -> None:
    (copy / "tokenizer" / lost).unlink()
    (copy / "tokenizer/tokenizer.json").unlink(missing_ok=True)
    with pytest.raises(BaseError, match="lacks tokenizer"):
        recognise(copy)
    (copy / "tokenizer/tokenizer.json").write_text("{}")
    assert recognise(copy) == "sd1"


def test_another_kind_of_conditions_is_a_familys_own_that_says_so(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = replace(FAMILIES["sd1"], name="other", config_marks={"addition_embed_type": "image"})
    monkeypatch.setitem(FAMILIES, "other", own)
    change(copy / "unet" / "config.json", addition_embed_type="image")
    assert recognise(copy) == "other"


def test_a_transformer_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    with pytest.raises(BaseError, match="StableDiffusion3Pipeline"):
        recognise(tmp_path)


def test_a_refiner_is_refused(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    refiner = shutil.copytree(folder_of("sdxl"), tmp_path / "refiner")
    shutil.rmtree(refiner / "text_encoder")
    with pytest.raises(BaseError, match="refiner"):
        recognise(refiner)


@pytest.mark.parametrize("part", ["vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(copy: Path, part: str) -> None:
    shutil.rmtree(copy / part)
    with pytest.raises(BaseError, match=f"lacks {part}"):
        recognise(copy)


def test_missing_weights_are_named(copy: Path) -> None:
    (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(BaseError, match="lacks unet"):
        recognise(copy)


def test_a_missing_shard_is_noticed(copy: Path) -> None:
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model-00001-of-00002.safetensors"))
    shards = {"conv_in.weight": f"{weights.stem}-00001-of-00002.safetensors"}
    shards["conv_out.weight"] = f"{weights.stem}-00002-of-00002.safetensors"
    (copy / "unet" / f"{weights.name}.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(BaseError, match="lacks unet"):
        recognise(copy)


@pytest.mark.parametrize(
    "file", ["unet/diffusion_pytorch_model.safetensors", "unet/config.json", "tokenizer/vocab.json"]
)
def test_a_git_lfs_pointer_is_not_taken_for_the_file(copy: Path, file: str) -> None:
    (copy / file).write_text(POINTER)
    with pytest.raises(BaseError, match=rf"{file}: is a Git LFS pointer.*git lfs pull"):
        recognise(copy)


def test_a_single_file_that_is_a_git_lfs_pointer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_text(POINTER)
    with pytest.raises(BaseError, match="Git LFS pointer"):
        recognise(tmp_path / "model.ckpt")


def test_another_text_encoder_is_refused(copy: Path) -> None:
    change(copy / "text_encoder" / "config.json", model_type="t5")
    with pytest.raises(BaseError, match="is a t5"):
        recognise(copy)


def test_a_base_that_dvc_tracks_but_is_not_here_asks_for_a_pull(tmp_path: Path) -> None:
    (tmp_path / "sd15.dvc").write_text("outs: []\n")
    with pytest.raises(BaseError, match=r"dvc pull .*sd15"):
        recognise(tmp_path / "sd15")


def test_a_missing_base_says_how_to_fetch_one(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match=r"is missing.*etude base"):
        recognise(tmp_path / "sd15")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ({"lora_unet_down_blocks_0.lora_up.weight": (1,)}, "LoRA"),
        ({"unet.conv_in.lora_A.weight": (1,)}, "LoRA"),
        ({f"{UNET}joint_blocks.0.x_block.attn.qkv.weight": (1,)}, "SD 3, Flux"),
        ({"double_blocks.0.img_attn.qkv.weight": (1,)}, "SD 3, Flux"),
        ({"conv_in.weight": (1,), "down_blocks.0.resnets.0.conv1.weight": (1,)}, "one part of a diffusers folder"),
        ({f"{UNET}input_blocks.0.0.weight": (8, 9, 3, 3)}, "inpainting"),
        ({f"{UNET}input_blocks.0.0.weight": (8, 4, 3, 3)}, r"lacks first_stage_model\.\*, cond_stage_model"),
        ({f"{UNET}input_blocks.0.0.weight": (8, 4, 3, 3), f"{UNET}label_emb.0.0.weight": (1,)}, "unCLIP"),
        ({"conditioner.embedders.0.model.ln_final.weight": (1,)}, "refiner"),
        ({"emb_params": (4, 768)}, "no UNet"),
    ],
)
def test_another_single_file_is_refused_by_its_kind(
    names: dict[str, tuple[int, ...]], says: str, tmp_path: Path
) -> None:
    file = tmp_path / "file.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in names.items()}, file)
    with pytest.raises(BaseError, match=says):
        recognise(file)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"PNG")
    with pytest.raises(BaseError, match="neither a diffusers folder nor"):
        recognise(tmp_path / "picture.png")


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
def test_a_damaged_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x08\0\0\0\0\0\0\0not json and no pickle")
    with pytest.raises(BaseError, match=name):
        recognise(tmp_path / name)


class Trap:
    """A pickle that would write a file when it is opened carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_code_in_a_pickle_does_not_run(tmp_path: Path) -> None:
    trap, file = tmp_path / "ran", tmp_path / "model.ckpt"
    torch.save({"state_dict": {"a": Trap(trap)}}, file)
    with pytest.raises(BaseError, match="could run code"):
        recognise(file)
    assert not trap.exists()
    file.write_bytes(pickle.dumps(Trap(trap), protocol=2))
    with pytest.raises(BaseError, match="could run code"):
        recognise(file)
    assert not trap.exists()


def test_recognising_a_folder_or_a_safetensors_file_imports_no_torch(
    folder_of: Callable[[str], Path], tmp_path: Path, root: Path
) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in to_ldm(folder_of("sd1"), "sd1").items()}
    save_file(tensors, tmp_path / "model.safetensors")
    code = (
        "import sys; from etude.base.family import recognise; from etude.base.settings import Sampling\n"
        f"print(recognise({str(folder_of('sd1'))!r}), recognise({str(tmp_path / 'model.safetensors')!r}))\n"
        "print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == ["sd1 sd1", "[]"]
