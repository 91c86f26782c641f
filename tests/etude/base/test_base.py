"""Loading a base: whole, in parts, from a folder and from one file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from etude.base import loading, single
from etude.base.base import Base
from etude.base.loading import load_base, read_kind
from etude.base.single import CONFIGS, single_scheduler, warn_of_own_numbers
from etude.base.tokenizer import load_tokenizer
from etude.core.errors import BaseError, EtudeWarning
from tests.etude.base.ldm import to_ldm
from tests.etude.conftest import FAMILIES, change


def states(base: Base) -> dict[str, torch.Tensor]:
    modules = {"unet": base.unet, "vae": base.vae, **{f"text{i}": m for i, m in enumerate(base.text_encoders)}}
    return {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}


def configuration_beside(folder: Path, target: Path) -> None:
    """Everything of a base but its weights."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors", "clip"))


def test_a_base_is_frozen_in_eval_mode_and_knows_its_family_prediction_and_resolution(base: Base, family: str) -> None:
    modules = [base.unet, base.vae, *base.text_encoders]
    assert not any(parameter.requires_grad for module in modules for parameter in module.parameters())
    assert not any(module.training for module in modules)
    assert len(base.text_encoders) == len(base.tokenizers) == (2 if family == "sdxl" else 1)
    assert (base.family, base.resolution) == (family, 64)
    assert base.prediction == ("v_prediction" if family == "sd2" else "epsilon")


def test_the_tiny_base_has_every_tensor_of_sd_1_5(sd1: Base) -> None:
    modules = (sd1.unet, sd1.vae, sd1.text_encoders[0])
    assert [len(module.state_dict()) for module in modules] == [686, 248, 196]


def test_only_the_parts_asked_for_are_loaded(folder: Path) -> None:
    base = load_base(folder, parts=("vae",))
    assert base.unet is None
    assert base.text_encoders == ()
    assert base.vae is not None


@pytest.mark.parametrize(
    ("family", "counts"),
    [
        ("sd1", {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}),
        ("sd2", {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840}),
        (
            "sdxl",
            {
                "unet": 2_567_463_684,
                "vae": 83_653_863,
                "text_encoder": 123_060_480,
                "text_encoder_2": 694_659_840,
            },
        ),
    ],
)
def test_the_shipped_configurations_have_the_published_parameter_counts(family: str, counts: dict[str, int]) -> None:
    for part, count in counts.items():
        config: dict[str, Any] = json.loads((CONFIGS / family / part / "config.json").read_text())
        with torch.device("meta"):
            if part == "unet":
                model = UNet2DConditionModel.from_config(config)
            elif part == "vae":
                model = AutoencoderKL.from_config(config)
            else:
                kind = CLIPTextModelWithProjection if part.endswith("_2") else CLIPTextModel
                model = kind(CLIPTextConfig(**config))
        assert sum(parameter.numel() for parameter in model.parameters()) == count, part


@pytest.mark.parametrize(
    ("family", "form"),
    [("sd1", "old .ckpt"), *((family, form) for family in FAMILIES for form in (".safetensors", ".ckpt"))],
)
def test_a_single_file_with_its_configuration_beside_it_equals_the_folder(
    folder: Path, family: str, form: str, tmp_path: Path
) -> None:
    file = tmp_path / f"model{form.removeprefix('old ')}"
    tensors = to_ldm(folder, family)
    if form == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    else:
        checkpoint = {"state_dict": tensors, "global_step": 1}
        torch.save(checkpoint, file, _use_new_zipfile_serialization=not form.startswith("old"))
    configuration_beside(folder, tmp_path / "model.config")

    assert read_kind(file) == read_kind(folder) == (family, load_base(folder, parts=()).prediction, 64)
    one, other = load_base(file), load_base(folder)

    assert (one.family, one.prediction, one.resolution) == (other.family, other.prediction, other.resolution)
    expected, found = states(other), states(one)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_merged_file_whose_text_encoder_lacks_its_prefix_loads_as_well(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    tensors = {
        k.replace("transformer.text_model.", "transformer."): v for k, v in to_ldm(folder_of("sd1"), "sd1").items()
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    configuration_beside(folder_of("sd1"), tmp_path / "model.config")

    found = load_base(tmp_path / "model.safetensors", parts=("text",)).text_encoders[0].state_dict()

    expected = load_file(folder_of("sd1") / "text_encoder" / "model.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_single_file_of_unknown_width_asks_for_a_configuration(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    tensors = to_ldm(folder_of("sd1"), "sd1")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    with pytest.raises(BaseError, match=r"widths.*model\.config"):
        load_base(tmp_path / "model.safetensors")


def test_a_single_sd2_file_must_say_whether_it_predicts_v(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"x": torch.zeros(1)}, file)
    with pytest.raises(BaseError, match="whether it predicts"):
        single_scheduler(file, "sd2", CONFIGS / "sd2")
    save_file({"x": torch.zeros(1)}, file, metadata={"modelspec.prediction_type": "v"})
    assert single_scheduler(file, "sd2", CONFIGS / "sd2")["prediction_type"] == "v_prediction"


LDM = "model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n  params: {{linear_start: 0.00085, {}}}\n"
SGM = "model: {{params: {{scale_factor: 0.13025, denoiser_config: {{target: sgm.{}}}}}}}\n"


@pytest.mark.parametrize(
    ("family", "text", "prediction"),
    [
        ("sd1", LDM.format('parameterization: "v"'), "v_prediction"),
        ("sd1", LDM.format("scale_factor: 0.18215"), "epsilon"),
        ("sd2", LDM.format("linear_end: 0.0120"), "epsilon"),
        ("sd2", LDM.format("parameterization: v, timesteps: 1000"), "v_prediction"),
        ("sdxl", SGM.format("VScaling"), "v_prediction"),
        ("sdxl", SGM.format("EpsScaling"), "epsilon"),
        ("sd1", "note: something else", "epsilon"),
    ],
)
def test_the_configuration_of_a1111_beside_a_single_file_says_what_it_predicts(
    family: str, text: str, prediction: str, tmp_path: Path
) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "model.yaml").write_text(text, encoding="utf-8")
    scheduler = single_scheduler(tmp_path / "model.safetensors", family, CONFIGS / family)
    assert scheduler["prediction_type"] == prediction


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            LDM.format("scale_factor: 0.13025"),
            r"`scale_factor: 0\.13025`, but .* 0\.18215\. Next: .*model\.config",
        ),
        (LDM.format("linear_end: 0.02"), r"`linear_end: 0\.02`"),
        (LDM.format("timesteps: 100"), "`timesteps: 100`"),
        (LDM.format("parameterization: x0"), "`parameterization: x0`"),
        (LDM.format("parameterization: [v]"), "`parameterization: "),
        ("model: [", "model.yaml: "),
    ],
)
def test_what_it_says_otherwise_is_refused(text: str, fault: str, tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "model.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(BaseError, match=fault):
        single_scheduler(tmp_path / "model.safetensors", "sd1", CONFIGS / "sd1")


@pytest.mark.parametrize(
    ("tensor", "label", "fault"),
    [
        ("v_pred", "epsilon", "has the mark `v_pred` in it, and `modelspec"),
        ("x", "sample", "type: sample`, which is not"),
    ],
)
def test_marks_that_contradict_each_other_or_are_not_known_are_refused(
    tensor: str, label: str, fault: str, tmp_path: Path
) -> None:
    save_file({tensor: torch.zeros(0)}, tmp_path / "m.safetensors", metadata={"modelspec.prediction_type": label})
    with pytest.raises(BaseError, match=fault):
        single_scheduler(tmp_path / "m.safetensors", "sdxl", CONFIGS / "sdxl")


def test_a_file_that_contradicts_the_configuration_beside_it_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"modelspec.prediction_type": "v"})
    (tmp_path / "model.yaml").write_text(LDM.format(""), encoding="utf-8")
    with pytest.raises(BaseError, match=r"says itself that it predicts v_prediction, but model\.yaml says epsilon"):
        single_scheduler(tmp_path / "model.safetensors", "sd2", CONFIGS / "sd2")


def test_numbers_of_noise_and_latents_within_a_single_file_that_are_not_used_are_named(tmp_path: Path) -> None:
    alphas, file = torch.linspace(0.99, 0.01, 1000), tmp_path / "model.safetensors"
    save_file({"alphas_cumprod": alphas.half(), "scale_factor": torch.tensor(0.18215)}, file)
    warn_of_own_numbers(file, alphas, 0.18215)
    for other, name in ((alphas**2, "alphas_cumprod"), (alphas[:500], "alphas_cumprod")):
        save_file({name: other}, file)
        with pytest.warns(EtudeWarning, match=f"its `{name}` is not used: .* Next: if the file is right, put a conf"):
            warn_of_own_numbers(file, alphas, 0.18215)
    save_file({"scale_factor": torch.tensor(0.13025)}, file)
    with pytest.warns(EtudeWarning, match="its `scale_factor` is not used"):
        warn_of_own_numbers(file, alphas, 0.18215)


def test_a_single_file_with_a_shipped_configuration_is_told_of_its_own_numbers_when_it_is_loaded(
    folder_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration_beside(folder_of("sd1"), tmp_path / "shipped/sd1")
    change(tmp_path / "shipped/sd1/scheduler/scheduler_config.json", prediction_type="epsilon")
    for module in (single, loading):
        monkeypatch.setattr(module, "CONFIGS", tmp_path / "shipped")
    tensors = {name: tensor.contiguous() for name, tensor in to_ldm(folder_of("sd1"), "sd1").items()}
    save_file(tensors, tmp_path / "plain.safetensors")
    assert load_base(tmp_path / "plain.safetensors", parts=()).resolution == 512
    save_file(tensors | {"alphas_cumprod": torch.linspace(0.9, 0.1, 1000)}, tmp_path / "own.safetensors")
    with pytest.warns(EtudeWarning, match="its `alphas_cumprod` is not used"):
        load_base(tmp_path / "own.safetensors", parts=())
    configuration_beside(folder_of("sd1"), tmp_path / "own.config")
    assert load_base(tmp_path / "own.safetensors", parts=()).resolution == 64


def test_a_single_sdxl_file_marked_v_pred_and_ztsnr_is_taken_as_such(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, file)
    scheduler = single_scheduler(file, "sdxl", CONFIGS / "sdxl")
    assert (scheduler["prediction_type"], scheduler["rescale_betas_zero_snr"]) == ("v_prediction", True)
    assert scheduler["timestep_spacing"] == "trailing"
    save_file({"v_pred": torch.zeros(0)}, file)
    scheduler = single_scheduler(file, "sdxl", CONFIGS / "sdxl")
    assert (scheduler["prediction_type"], scheduler.get("rescale_betas_zero_snr", False)) == ("v_prediction", False)


def test_the_shipped_tokenizer_gives_clips_ids(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tmp_path / "tokenizer", "<|endoftext|>")
    assert len(tokenizer) == 49_408
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer.pad_token_id == 49407
    assert load_tokenizer(tmp_path / "tokenizer_2", "!").pad_token_id == 0


def test_weights_that_lack_a_tensor_are_refused_by_name(copy: Path) -> None:
    for part, file, name in (
        ("unet", "diffusion_pytorch_model.safetensors", "conv_out.bias"),
        ("text_encoder", "model.safetensors", "final_layer_norm.bias"),
    ):
        weights = copy / part / file
        tensors = load_file(weights)
        del tensors[name]
        weights.unlink()
        save_file(tensors, weights, metadata={"format": "pt"})
        with pytest.raises(BaseError, match=name):
            load_base(copy, parts=("unet",) if part == "unet" else ("text",))


def test_weights_that_do_not_fit_their_configuration_are_refused(copy: Path) -> None:
    change(copy / "unet/config.json", cross_attention_dim=48)
    with pytest.raises(BaseError, match=r"`unet\..* is \[\d+, 32\], but its configuration asks for \[\d+, 48\]"):
        load_base(copy, parts=("unet",))


def test_a_damaged_weights_file_is_refused(copy: Path) -> None:
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(BaseError, match="vae"):
        load_base(copy, parts=("vae",))


def test_a_folder_with_half_precision_files_alone_loads(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "base")
    for file in sorted((tmp_path / "base").glob("*/*.safetensors")):
        half = {name: tensor.half() for name, tensor in load_file(file).items()}
        save_file(half, file.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
        file.unlink()
    base = load_base(tmp_path / "base")
    assert base.unet.dtype == base.vae.dtype == base.text_encoders[0].dtype == torch.float32


def test_in_fp16_the_vae_stays_in_float32_where_the_base_says_so(folder_of: Callable[[str], Path]) -> None:
    base = load_base(folder_of("sdxl"), dtype=torch.float16, parts=("unet", "vae"))
    assert (base.unet.dtype, base.vae.dtype) == (torch.float16, torch.float32)


def test_loading_a_single_file_reads_nothing_else_than_the_part_asked_for(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    tensors = to_ldm(folder_of("sd1"), "sd1")
    tensors["first_stage_model.encoder.conv_in.weight"] = torch.zeros(1)  # would fail if the vae were opened
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    configuration_beside(folder_of("sd1"), tmp_path / "model.config")
    assert load_base(tmp_path / "model.safetensors", parts=("text",)).text_encoders
    with pytest.raises(BaseError, match="vae"):
        load_base(tmp_path / "model.safetensors", parts=("vae",))
