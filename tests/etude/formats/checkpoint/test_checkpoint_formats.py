from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from etude.base.loading import load_base
from etude.base.single import CONFIGS
from etude.base.whole import read_model
from etude.core import families
from etude.core.artifact import Artifact
from etude.core.errors import BaseError, FormatError
from etude.core.files import Draft, sha256_tree
from etude.core.model_files import common
from etude.core.tensors import read_metadata, read_tensors
from etude.formats import identify
from etude.formats.checkpoint import diffusers_checkpoint, ldm_checkpoint
from etude.formats.checkpoints import Frame, complete
from tasks.export import configuration, read_frame
from tests.etude.base.ldm import to_ldm
from tests.tiny import build_tiny

FAMILIES = ("sd1", "sd2", "sdxl")
each_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("bases")
    return cache(lambda family: build_tiny(root / family, family))


def learned(base: Path, dtype: torch.dtype = torch.float32) -> Artifact:
    """A third of all weights changed."""
    frame, facts = diffusers_checkpoint.read(base)
    generator = torch.Generator().manual_seed(1)
    names = [*sorted(frame)[::3], "text_encoder.final_layer_norm.weight"]
    tensors = {name: (frame[name] + torch.randn(frame[name].shape, generator=generator)).to(dtype) for name in names}
    facts = {"name": "otter", "family": facts["family"], "prediction": facts["prediction"], "base": base.as_posix()}
    return Artifact("fine_tuning", tensors, facts)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert sorted(found) == sorted(expected)
    assert [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)] == []


@each_family
@pytest.mark.parametrize("module", [ldm_checkpoint, diffusers_checkpoint], ids=["ldm", "diffusers"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_file_holds_the_whole_model_with_what_was_learned_in_it(
    family: str, module: Any, dtype: torch.dtype, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    base = folder_of(family)
    artifact, frame = learned(base, dtype), read_frame(base)
    first = module.write(artifact, Draft(tmp_path), frame)[0]
    path = first if first.suffix == ".safetensors" else tmp_path / "otter"
    assert identify(path) == module.__name__.rpartition(".")[2]
    tensors, facts = module.read(path)
    assert_equal(tensors, {n: artifact.tensors.get(n, tensor.to(dtype)) for n, tensor in frame.tensors.items()})
    assert {t.dtype for t in tensors.values()} == {dtype}
    assert facts == {"family": family, "prediction": artifact.facts["prediction"], "name": "otter"}
    digest = sha256_tree(tmp_path)
    module.write(artifact, Draft(tmp_path), frame)
    assert sha256_tree(tmp_path) == digest


@each_family
def test_the_single_file_has_the_names_of_the_first_code(
    family: str, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    expected = to_ldm(folder_of(family), family)  # written from the published tables, not with this code
    artifact = Artifact("fine_tuning", {}, {"name": "otter", "family": family})
    found = read_tensors(ldm_checkpoint.write(artifact, Draft(tmp_path), read_frame(folder_of(family)))[0])[0]
    sd2 = "cond_stage_model.model."
    unused = (f"{sd2}transformer.resblocks.23.", f"{sd2}logit_scale", f"{sd2}text_projection", "betas", "model_ema.")
    assert_equal(found, {n: t for n, t in expected.items() if not n.startswith(unused) and "position_ids" not in n})


@each_family
def test_a_single_file_of_the_first_code_is_read(family: str, folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in to_ldm(folder_of(family), family).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    torch.save({"state_dict": tensors, "global_step": 1}, tmp_path / "model.ckpt")
    expected = diffusers_checkpoint.read(folder_of(family))[0]
    shapes = {name: tensor.shape for name, tensor in expected.items()}
    for path in (tmp_path / "model.safetensors", tmp_path / "model.ckpt"):
        assert identify(path) == "ldm_checkpoint"
        assert_equal(read_model(path, expected=shapes)[0], expected)


@each_family
def test_diffusers_loads_both_and_so_does_etude(family: str, folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    artifact, frame = learned(folder_of(family)), read_frame(folder_of(family))
    ldm_checkpoint.write(artifact, Draft(tmp_path), frame)
    diffusers_checkpoint.write(artifact, Draft(tmp_path), frame)
    kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    single = kind.from_single_file(
        tmp_path / "otter.safetensors", config=str(tmp_path / "otter.config"), local_files_only=True
    )
    folder = DiffusionPipeline.from_pretrained(tmp_path / "otter", local_files_only=True)
    own, other = load_base(tmp_path / "otter.safetensors"), load_base(tmp_path / "otter")
    assert own.prediction == other.prediction == artifact.facts["prediction"]
    expected = {n: artifact.tensors.get(n, tensor) for n, tensor in frame.tensors.items()}
    for model in (single, folder, own, other):
        encoders = getattr(model, "text_encoders", None) or [
            getattr(model, name) for name in ("text_encoder", "text_encoder_2") if getattr(model, name, None)
        ]
        parts = {"unet": model.unet, "vae": model.vae, "text_encoder": encoders[0]}
        parts |= {"text_encoder_2": encoders[1]} if family == "sdxl" else {}
        found = {k: v for part, module in parts.items() for k, v in common(part, module.state_dict()).items()}
        assert_equal(found, expected)


@each_family
def test_a_single_file_is_a_base_for_the_next_one(
    family: str, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    artifact = learned(folder_of(family))
    (path, *_) = ldm_checkpoint.write(artifact, Draft(tmp_path), read_frame(folder_of(family)))
    frame = read_frame(path)
    kept = diffusers_checkpoint.write(Artifact("", {}, artifact.facts), Draft(tmp_path / "again"), frame)
    assert len(kept) > 5
    again = load_base(tmp_path / "again/otter")
    assert again.tokenizers[0]("otter")["input_ids"] == load_base(folder_of(family)).tokenizers[0]("otter")["input_ids"]
    assert_equal(diffusers_checkpoint.read(tmp_path / "again/otter")[0], dict(frame.tensors))


def true_model(family: str) -> dict[str, Tensor]:
    """Every tensor of the published model in the common form, without its memory."""
    kinds: dict[str, Any] = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    found: dict[str, Tensor] = {}
    with torch.device("meta"):
        for part in ("unet", "vae", *kinds):
            path = CONFIGS / family / part / "config.json"
            if path.exists():
                config = json.loads(path.read_text())
                if part in kinds:
                    model = kinds[part](CLIPTextConfig(**config))
                else:
                    model = (UNet2DConditionModel if part == "unet" else AutoencoderKL).from_config(config)
                found |= common(part, model.state_dict())
    return found


def test_sd_1_5_has_the_published_names_and_size() -> None:
    found = ldm_checkpoint.to_ldm(true_model("sd1"), families.FAMILIES["sd1"])
    assert len(found) == 1130
    assert sum(tensor.numel() for tensor in found.values()) == 1_066_235_307  # 4.265 GB fp32, 2.132 GB fp16
    names = {
        "model.diffusion_model.time_embed.0.weight": (1280, 320),
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        "model.diffusion_model.input_blocks.3.0.op.weight": (320, 320, 3, 3),
        "model.diffusion_model.middle_block.1.proj_in.weight": (1280, 1280, 1, 1),
        "model.diffusion_model.output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        "model.diffusion_model.output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
        "model.diffusion_model.output_blocks.11.0.skip_connection.weight": (320, 640, 1, 1),
        "model.diffusion_model.out.2.bias": (4,),
        "first_stage_model.encoder.mid.attn_1.q.weight": (512, 512, 1, 1),
        "first_stage_model.decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
        "first_stage_model.decoder.up.0.block.0.nin_shortcut.weight": (128, 256, 1, 1),
        "first_stage_model.post_quant_conv.weight": (4, 4, 1, 1),
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (49408, 768),
    }
    assert {name: tuple(found[name].shape) for name in names} == names


@pytest.mark.parametrize(
    ("family", "name", "shape"),
    [
        ("sd2", "cond_stage_model.model.transformer.resblocks.22.attn.in_proj_weight", (3072, 1024)),
        ("sd2", "cond_stage_model.model.positional_embedding", (77, 1024)),
        ("sdxl", "conditioner.embedders.1.model.text_projection", (1280, 1280)),
        ("sdxl", "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias", (768,)),
        ("sdxl", "model.diffusion_model.label_emb.0.0.weight", (1280, 2816)),
        ("sdxl", "model.diffusion_model.input_blocks.8.1.transformer_blocks.9.attn1.to_out.0.bias", (1280,)),
        ("sdxl", "model.diffusion_model.output_blocks.2.2.conv.weight", (1280, 1280, 3, 3)),
    ],
)
def test_the_true_names_of_the_other_families(family: str, name: str, shape: tuple[int, ...]) -> None:
    assert tuple(ldm_checkpoint.to_ldm(true_model(family), families.FAMILIES[family])[name].shape) == shape


def test_metadata_says_what_a_single_file_predicts(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    (path, *_) = ldm_checkpoint.write(learned(folder_of("sd2")), Draft(tmp_path), read_frame(folder_of("sd2")))
    metadata = read_metadata(path)
    assert metadata["modelspec.prediction_type"] == "v"
    assert metadata["modelspec.architecture"] == "stable-diffusion-v2-768-v"
    assert metadata["format"] == "pt"


def test_sdxl_that_predicts_v_is_marked_as_other_programs_know_it(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    artifact, frame = learned(folder_of("sdxl")), read_frame(folder_of("sdxl"))
    scheduler = json.loads(frame.files["scheduler/scheduler_config.json"])
    scheduler |= {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    files = dict(frame.files) | {"scheduler/scheduler_config.json": json.dumps(scheduler).encode()}
    made = Artifact("", artifact.tensors, artifact.facts | {"prediction": "v_prediction"})
    (path, *_) = ldm_checkpoint.write(made, Draft(tmp_path), Frame(frame.tensors, files))
    assert {"v_pred", "ztsnr"} <= set(read_tensors(path)[0])
    assert load_base(path).prediction == "v_prediction"
    assert ldm_checkpoint.read(path)[1]["prediction"] == "v_prediction"


def test_the_index_of_a_folder_names_the_parts_that_it_has_and_no_path_of_another_machine(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    frame = read_frame(folder_of("sd1"))
    index = json.loads(frame.files["model_index.json"])
    index |= {"_name_or_path": "/home/me/model", "safety_checker": ["diffusers", "SafetyChecker"]}
    files = dict(frame.files) | {"model_index.json": json.dumps(index).encode()}
    diffusers_checkpoint.write(learned(folder_of("sd1")), Draft(tmp_path), Frame(frame.tensors, files))
    written = json.loads((tmp_path / "otter/model_index.json").read_text())
    assert "_name_or_path" not in written
    assert written["safety_checker"] == [None, None]
    assert written["unet"] == index["unet"]
    assert written["_class_name"] == index["_class_name"]


def test_old_names_in_the_attention_of_a_vae_are_read(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(folder_of("sd1"), tmp_path / "old")
    file = tmp_path / "old/vae/diffusion_pytorch_model.safetensors"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, tensor in read_tensors(file)[0].items():
        new = next((name.replace(f".{a}.", f".{b}.") for a, b in names.items() if f"attentions.0.{a}." in name), name)
        tensors[new] = tensor
    save_file(tensors, file)
    assert any(".query." in name for name in tensors)
    assert_equal(diffusers_checkpoint.read(tmp_path / "old")[0], diffusers_checkpoint.read(folder_of("sd1"))[0])


def test_a_half_precision_folder_and_one_in_pickles_are_read(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(folder_of("sd1"), tmp_path / "half")
    unet = tmp_path / "half/unet/diffusion_pytorch_model.safetensors"
    unet.rename(unet.with_name("diffusion_pytorch_model.fp16.safetensors"))
    text = tmp_path / "half/text_encoder/model.safetensors"
    torch.save(read_tensors(text)[0], text.with_name("pytorch_model.bin"))
    text.unlink()
    assert_equal(diffusers_checkpoint.read(tmp_path / "half")[0], diffusers_checkpoint.read(folder_of("sd1"))[0])


def test_what_does_not_fit_the_base_is_refused(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    frame = read_frame(folder_of("sd1"))
    artifact = Artifact(
        "", {"unet.conv_in.weight": torch.zeros(3)}, {"name": "a", "family": "sd1", "base": "models/own"}
    )
    with pytest.raises(
        FormatError,
        match=r"1 tensors that this base does not have .* unet\.conv_in.*Next: give the base .* \(models/own\)",
    ):
        ldm_checkpoint.write(artifact, Draft(tmp_path), frame)
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(BaseError, match=r"has 0 input channels"):
        read_model(tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == [tmp_path / "a.safetensors"]


@each_family
def test_the_configuration_of_a_single_file_of_true_widths_is_the_shipped_one(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    monkeypatch.setattr("etude.base.family.recognise", lambda *_, **__: family)
    monkeypatch.setattr("etude.base.single.config_folder", lambda *_: CONFIGS / family)
    monkeypatch.setattr("etude.base.single.single_scheduler", lambda *_: {"_class_name": "DDIMScheduler"})
    files = configuration(path)
    index = json.loads(files["model_index.json"])
    assert {"unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"} <= set(files)
    parts = [part for part, value in index.items() if isinstance(value, list) and value[0]]
    assert [part for part in parts if not any(name.startswith(f"{part}/") for name in files)] == []
    assert len(parts) == (7 if family == "sdxl" else 5)


def test_two_names_of_one_tensor_in_a_model_are_refused_and_neither_is_lost() -> None:
    own = {"text_model.final_layer_norm.weight": torch.ones(2), "final_layer_norm.weight": torch.zeros(2)}
    with pytest.raises(FormatError, match=r"two names, .*`text_model\.final.*` and `final_layer_norm\.weight`"):
        common("text_encoder", own)


def test_a_base_whose_numbers_the_precision_cannot_hold_is_not_saved_in_it() -> None:
    frame = Frame({"unet.large": torch.tensor([7e4]), "unet.learned": torch.zeros(1)}, {})
    learned = {"unet.learned": torch.ones(1)}
    with pytest.raises(FormatError, match=r"`save: fp16` cannot hold `unet.large`"):
        complete(Artifact("fine_tuning", learned, {}, "fp16"), frame)
    assert complete(Artifact("fine_tuning", learned, {}, "bf16"), frame)["unet.large"].dtype == torch.bfloat16
