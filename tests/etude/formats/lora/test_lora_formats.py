from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from etude import formats
from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.families import text_parts
from etude.core.files import Draft
from etude.core.tensors import read_metadata, read_tensors
from etude.formats.lora import diffusers_lora, kohya_lora, peft_lora

UNET = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "unet.mid_block.resnets.0.conv1"
TEXT = "text_encoder.encoder.layers.3.self_attn.q_proj"
FACTS = {
    "name": "sks",
    "rank": 4,
    "alpha": 2.0,
    "family": "sd1",
    "prediction": "epsilon",
    "resolution": 512,
    "step": 300,
    "seed": 7,
    "base": "models/miniature",
    "params": {"training": {"learning_rate": 1e-4, "schedule": "constant", "optimizer": "adamw"}},
}


def lora(family: str = "sd1", dtype: torch.dtype = torch.float16, **facts: object) -> Artifact:
    generator = torch.Generator().manual_seed(0)
    shapes = {UNET: ((4, 8), (8, 4)), CONV: ((4, 6, 3, 3), (6, 4, 1, 1)), TEXT: ((4, 8), (8, 4))}
    if family == "sdxl":
        shapes["text_encoder_2.encoder.layers.0.mlp.fc1"] = ((4, 12), (24, 4))
    tensors = {}
    for name, (down, up) in shapes.items():
        tensors[f"{name}.lora_A.weight"] = torch.randn(down, generator=generator).to(dtype)
        tensors[f"{name}.lora_B.weight"] = torch.randn(up, generator=generator).to(dtype)
    return Artifact("lora", tensors, FACTS | {"family": family} | facts)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_what_is_written_for_kohya_is_read_back_with_its_alpha(family: str, tmp_path: Path) -> None:
    artifact = lora(family)
    (path,) = kohya_lora.write(artifact, Draft(tmp_path))
    tensors, facts = kohya_lora.read(path)
    assert_equal(tensors, artifact.tensors)
    assert (facts["rank"], facts["alpha"], facts.get("alphas")) == (4, 2.0, None)
    assert formats.identify(path) == "kohya_lora"


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_what_is_written_for_diffusers_has_the_scale_in_b_and_alpha_equal_to_the_rank(
    family: str, tmp_path: Path
) -> None:
    artifact = lora(family)
    (path,) = diffusers_lora.write(artifact, Draft(tmp_path))
    tensors, facts = diffusers_lora.read(path)
    halved = {name: tensor / 2 if ".lora_B." in name else tensor for name, tensor in artifact.tensors.items()}
    assert_equal(tensors, halved)
    assert (facts["rank"], facts["alpha"], facts.get("alphas")) == (4, 4.0, None)
    header = json.loads(read_metadata(path)[diffusers_lora.ADAPTER])
    assert header["unet.lora_alpha"] == header["unet.r"] == 4
    assert formats.identify(path) == "diffusers_lora"


def test_a_program_that_ignores_the_header_of_diffusers_applies_the_same_change(tmp_path: Path) -> None:
    path = diffusers_lora.write(lora(), Draft(tmp_path))[0]
    known = diffusers_lora.read(path)
    save_file(read_tensors(path)[0], path)
    assert_equal(diffusers_lora.read(path)[0], known[0])
    assert diffusers_lora.read(path)[1] == {"rank": 4, "alpha": 4.0} == known[1]


def test_alphas_that_differ_between_modules_survive(tmp_path: Path) -> None:
    artifact = lora(alphas={TEXT: 0.3})
    tensors, facts = kohya_lora.read(kohya_lora.write(artifact, Draft(tmp_path))[0])
    assert facts["alpha"] == 2.0
    assert facts["alphas"] == {TEXT: pytest.approx(0.3)}
    assert_equal(tensors, artifact.tensors)


def test_a_scale_that_half_precision_cannot_hold_is_written_in_float32(tmp_path: Path) -> None:
    artifact = lora(alphas={TEXT: 0.3})
    tensors, facts = diffusers_lora.read(diffusers_lora.write(artifact, Draft(tmp_path))[0])
    assert "alphas" not in facts
    expected = artifact.tensors[f"{TEXT}.lora_B.weight"].float() * (0.3 / 4)
    assert torch.equal(tensors[f"{TEXT}.lora_B.weight"], expected)
    assert tensors[f"{UNET}.lora_B.weight"].dtype == torch.float16


@pytest.mark.parametrize("module", [kohya_lora, diffusers_lora], ids=lambda module: module.__name__)
def test_equal_artifacts_give_equal_bytes_without_a_time(module: formats.Format, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        module.write(lora(tags={"a noto sks": 2, "sks": 1}), Draft(tmp_path / folder))
    (first,) = (tmp_path / "a").iterdir()
    assert first.read_bytes() == (tmp_path / "b" / first.name).read_bytes()
    assert not [key for key in read_metadata(first) if "date" in key or "_at" in key or "session" in key]


def test_kohya_names_are_those_that_other_programs_look_for(tmp_path: Path) -> None:
    (path,) = kohya_lora.write(lora(), Draft(tmp_path))
    assert path.name == "sks.safetensors"
    tensors = read_tensors(path)[0]
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    assert tensors[f"{stem}.lora_down.weight"].shape == (4, 8)
    assert tensors[f"{stem}.lora_up.weight"].shape == (8, 4)
    assert tensors[f"{stem}.alpha"].item() == 2.0
    assert "lora_te_text_model_encoder_layers_3_self_attn_q_proj.lora_up.weight" in tensors
    assert "lora_unet_mid_block_resnets_0_conv1.alpha" in tensors
    sdxl = read_tensors(kohya_lora.write(lora("sdxl"), Draft(tmp_path))[0])[0]
    # diffusers leaves LDM names out of a file that has its own beside them: all are of one kind
    assert not [name for name in sdxl if "mid_block" in name or "down_blocks" in name]
    assert "lora_unet_middle_block_0_in_layers_2.lora_down.weight" in sdxl
    assert "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.lora_down.weight" in sdxl
    assert "lora_te1_text_model_encoder_layers_3_self_attn_q_proj.alpha" in sdxl
    assert "lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha" in sdxl


@pytest.mark.parametrize(
    ("family", "prediction", "v2", "version", "architecture"),
    [
        ("sd1", "epsilon", "False", "sd_v1", "stable-diffusion-v1/lora"),
        ("sd2", "v_prediction", "True", "sd_v2_v", "stable-diffusion-v2-768-v/lora"),
        ("sd2", "epsilon", "True", "sd_v2", "stable-diffusion-v2-512/lora"),
        ("sdxl", "epsilon", "False", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
    ],
)
def test_the_kohya_header_tells_the_family(
    family: str, prediction: str, v2: str, version: str, architecture: str, tmp_path: Path
) -> None:
    (path,) = kohya_lora.write(lora(family, prediction=prediction), Draft(tmp_path))
    metadata = read_metadata(path)
    assert (metadata["ss_v2"], metadata["ss_base_model_version"]) == (v2, version)
    assert metadata["modelspec.architecture"] == architecture
    assert kohya_lora.read(path)[1]["family"] == family
    assert kohya_lora.read(path)[1]["prediction"] == prediction


def test_the_kohya_header_has_what_modelspec_demands_and_what_was_trained(tmp_path: Path) -> None:
    metadata = read_metadata(kohya_lora.write(lora(tags={"sks": 3}), Draft(tmp_path))[0])
    assert metadata["modelspec.sai_model_spec"] == "1.0.1"
    assert metadata["modelspec.implementation"] == "diffusers"
    assert metadata["modelspec.title"] == "sks"
    assert metadata["modelspec.resolution"] == "512x512"
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("4", "2.0")
    assert metadata["ss_network_module"] == "networks.lora"
    assert (metadata["ss_steps"], metadata["ss_seed"], metadata["ss_learning_rate"]) == ("300", "7", "0.0001")
    assert json.loads(metadata["ss_tag_frequency"]) == {"sks": {"sks": 3}}
    assert json.loads(metadata["ss_network_args"]) == {}


def test_the_model_hash_is_that_of_the_bytes_after_the_header(tmp_path: Path) -> None:
    (path,) = kohya_lora.write(lora(), Draft(tmp_path))
    data = path.read_bytes()
    body = data[8 + int.from_bytes(data[:8], "little") :]
    metadata = read_metadata(path)
    assert metadata["sshs_model_hash"] == hashlib.sha256(body).hexdigest()
    assert metadata["modelspec.hash_sha256"] == "0x" + metadata["sshs_model_hash"]
    assert metadata["sshs_legacy_hash"] == hashlib.sha256(b"").hexdigest()[:8]  # shorter than a MiB: nothing is read


def test_the_legacy_hash_is_that_of_64_kib_from_one_mib_on(tmp_path: Path) -> None:
    made = lora()
    made.tensors[f"{UNET}.lora_A.weight"] = torch.randn(4, 80_000)
    (path,) = kohya_lora.write(made, Draft(tmp_path))
    tensors, metadata = read_tensors(path)
    own = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    written = save(tensors, own)
    assert len(written) > 1_114_112
    assert metadata["sshs_legacy_hash"] == hashlib.sha256(written[1_048_576:1_114_112]).hexdigest()[:8]


def test_what_was_not_trained_is_none_in_the_kohya_header(tmp_path: Path) -> None:
    facts = {"name": "sks", "rank": 4, "alpha": 2.0, "family": "sd1"}
    metadata = read_metadata(kohya_lora.write(Artifact("lora", lora().tensors, facts), Draft(tmp_path))[0])
    unknown = ("clip_skip", "learning_rate", "lr_scheduler", "max_grad_norm", "min_snr_gamma", "noise_offset")
    unknown += ("num_train_images", "optimizer", "sd_model_name", "seed", "steps", "tag_frequency")
    assert {metadata[f"ss_{name}"] for name in unknown} == {"None"}
    assert metadata["ss_resolution"] == "(512, 512)"
    assert metadata["modelspec.resolution"] == "512x512"
    assert metadata["modelspec.prediction_type"] == "epsilon"
    assert metadata["ss_base_model_version"] == "sd_v1"


def test_what_was_trained_is_in_the_kohya_header(tmp_path: Path) -> None:
    training = {"clip": 1.5, "min_snr": 5.0, "noise_offset": 0.1, "optimizer": {"kind": "adamw8bit"}}
    made = lora(resolution=768, images=12, prediction="v_prediction", params={"training": training})
    metadata = read_metadata(kohya_lora.write(made, Draft(tmp_path))[0])
    found = {name: metadata[f"ss_{name}"] for name in ("max_grad_norm", "min_snr_gamma", "noise_offset", "optimizer")}
    assert list(found.values()) == ["1.5", "5.0", "0.1", "adamw8bit"]
    assert (metadata["ss_num_train_images"], metadata["ss_sd_model_name"]) == ("12", "models/miniature")
    assert metadata["ss_resolution"] == "(768, 768)"
    assert metadata["modelspec.resolution"] == "768x768"
    assert metadata["modelspec.prediction_type"] == "v"
    assert metadata["modelspec.trigger_phrase"] == "sks"


def test_a_kohya_file_without_alpha_counts_as_alpha_equal_to_rank(tmp_path: Path) -> None:
    stem = "lora_unet_mid_block_attentions_0_proj_in"
    down, up = torch.randn(16, 8), torch.randn(8, 16)
    save_file({f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}, tmp_path / "old.safetensors")
    tensors, facts = kohya_lora.read(tmp_path / "old.safetensors")
    assert facts["alpha"] == 16.0
    assert torch.equal(tensors["unet.mid_block.attentions.0.proj_in.lora_A.weight"], down)


def test_an_sdxl_file_with_ldm_names_is_read(tmp_path: Path) -> None:
    stem = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_out_0"
    halves = {f"{stem}.lora_down.weight": torch.ones(2, 4), f"{stem}.lora_up.weight": torch.ones(4, 2)}
    save_file(halves | {f"{stem}.alpha": torch.tensor(1.0)}, tmp_path / "xl.safetensors")
    tensors, facts = kohya_lora.read(tmp_path / "xl.safetensors")
    assert "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_B.weight" in tensors
    assert facts == {"rank": 2, "alpha": 1.0}


@pytest.mark.parametrize(
    ("module", "key"),
    [
        (kohya_lora, "lora_unet_mid_block_attentions_0_proj_in.oft_diag"),
        (kohya_lora, "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"),
        (diffusers_lora, "transformer.single_blocks.0.proj.lora_A.weight"),
        (diffusers_lora, "unet.mid_block.attentions.0.proj_in.lora_embedding_A"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_of_another_kind_is_refused_by_its_keys(module: formats.Format, key: str, tmp_path: Path) -> None:
    save_file({key: torch.ones(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(FormatError, match=key.replace(".", r"\.")):
        module.read(tmp_path / "other.safetensors")


def test_halves_that_are_missing_or_do_not_fit_are_named(tmp_path: Path) -> None:
    stem = "lora_unet_mid_block_attentions_0_proj_in"
    save_file({f"{stem}.lora_down.weight": torch.ones(4, 8)}, tmp_path / "half.safetensors")
    with pytest.raises(FormatError, match=r"mid_block\.attentions\.0\.proj_in` has no lora_up"):
        kohya_lora.read(tmp_path / "half.safetensors")
    halves = {f"{stem}.lora_down.weight": torch.ones(4, 8), f"{stem}.lora_up.weight": torch.ones(8, 3)}
    save_file(halves, tmp_path / "unequal.safetensors")
    with pytest.raises(FormatError, match=r"lora_down.weight \[4, 8\], lora_up.weight \[8, 3\]"):
        kohya_lora.read(tmp_path / "unequal.safetensors")


OLDER = {
    "unet.down_blocks.0.attn1.processor.to_out_lora.down.weight": "unet.down_blocks.0.attn1.to_out.0",
    "unet.down_blocks.0.attn1.to_k.lora.down.weight": "unet.down_blocks.0.attn1.to_k",
    "down_blocks.0.attn1.processor.to_q_lora.down.weight": "unet.down_blocks.0.attn1.to_q",
    "text_encoder.text_model.encoder.layers.0.self_attn.to_out_lora.down.weight": (
        "text_encoder.encoder.layers.0.self_attn.out_proj"
    ),
    "text_encoder.text_model.encoder.layers.0.self_attn.v_proj.lora_linear_layer.down.weight": (
        "text_encoder.encoder.layers.0.self_attn.v_proj"
    ),
    "text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": "text_encoder_2.encoder.layers.0.mlp.fc1",
}


@pytest.mark.parametrize("key", OLDER)
def test_older_spellings_of_diffusers_are_read(key: str, tmp_path: Path) -> None:
    down, up = torch.randn(4, 8), torch.randn(6, 4)
    other = key.replace(".down.", ".up.").replace("lora_A", "lora_B")
    save_file({key: down, other: up}, tmp_path / "old.safetensors")
    tensors, facts = diffusers_lora.read(tmp_path / "old.safetensors")
    assert torch.equal(tensors[f"{OLDER[key]}.lora_A.weight"], down)
    assert torch.equal(tensors[f"{OLDER[key]}.lora_B.weight"], up)
    assert facts == {"rank": 4, "alpha": 4.0}
    assert formats.identify(tmp_path / "old.safetensors") == "diffusers_lora"


def test_a_peft_folder_is_read_with_the_alpha_of_its_configuration(tmp_path: Path) -> None:
    stem = "base_model.model.down_blocks.0.attentions.0.proj_in"
    halves = {f"{stem}.lora_A.weight": torch.randn(4, 8), f"{stem}.lora_B.weight": torch.randn(6, 4)}
    save_file(halves, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    tensors, facts = diffusers_lora.read(tmp_path / "adapter_model.safetensors")
    assert "unet.down_blocks.0.attentions.0.proj_in.lora_A.weight" in tensors
    assert facts["alpha"] == 8.0


def test_a_folder_of_peft_has_a_configuration_for_each_part(tmp_path: Path) -> None:
    made = lora(alphas={TEXT: 3.0, CONV: 1.0})
    made.tensors[f"{CONV}.lora_A.weight"] = torch.randn(2, 6, 3, 3)
    made.tensors[f"{CONV}.lora_B.weight"] = torch.randn(6, 2, 1, 1)
    peft_lora.write(made, Draft(tmp_path))
    fixed = {"peft_type": "LORA", "task_type": None, "base_model_name_or_path": None, "inference_mode": True}
    fixed |= {"lora_dropout": 0.0, "bias": "none"}
    unet, conv, text = (name.partition(".")[2] for name in (UNET, CONV, TEXT))
    assert json.loads((tmp_path / "sks/text_encoder/adapter_config.json").read_text()) == fixed | {
        "r": 4, "lora_alpha": 3.0, "target_modules": [text], "rank_pattern": {}, "alpha_pattern": {}
    }  # fmt: skip
    config = json.loads((tmp_path / "sks/unet/adapter_config.json").read_text())
    assert {unet: 4, conv: 2} == dict.fromkeys((unet, conv), config.pop("r")) | config.pop("rank_pattern")
    assert {unet: 2.0, conv: 1.0} == dict.fromkeys((unet, conv), config.pop("lora_alpha")) | config.pop("alpha_pattern")
    assert config == fixed | {"target_modules": sorted((unet, conv))}
    assert_equal(peft_lora.read(tmp_path / "sks")[0], made.tensors)


def test_layers_of_sdxls_second_text_encoder_have_the_names_that_its_class_has(tmp_path: Path) -> None:
    peft_lora.write(lora("sdxl"), Draft(tmp_path))
    first, second = (read_tensors(tmp_path / "sks" / part / "adapter_model.safetensors")[0] for part in text_parts())
    assert {name.partition(".encoder.")[0] for name in first} == {"base_model.model"}
    assert {name.partition(".encoder.")[0] for name in second} == {"base_model.model.text_model"}


# The names that LyCORIS 3 writes, as A1111's `network_*.py` and ComfyUI's `weight_adapter` read them.
LYCORIS = {
    "locon": {"lora_down.weight": (2, 8, 1, 1), "lora_up.weight": (6, 2, 1, 1), "lora_mid.weight": (2, 2, 3, 3)},
    "loha": {"hada_w1_a": (6, 2), "hada_w1_b": (2, 8), "hada_w2_a": (6, 2), "hada_w2_b": (2, 8)},
    "loha_tucker": {
        **{"hada_t1": (2, 2, 3, 3), "hada_w1_a": (2, 6), "hada_w1_b": (2, 8)},
        **{"hada_t2": (2, 2, 3, 3), "hada_w2_a": (2, 6), "hada_w2_b": (2, 8)},
    },
    "lokr": {"lokr_w1": (2, 4), "lokr_w2_a": (3, 2), "lokr_w2_b": (2, 2)},
    "lokr_whole": {"lokr_w1": (2, 4), "lokr_w2": (3, 2)},
    "lokr_both": {"lokr_w1_a": (2, 2), "lokr_w1_b": (2, 4), "lokr_w2_a": (3, 2), "lokr_w2_b": (2, 2)},
    "dora": {"lora_down.weight": (2, 8), "lora_up.weight": (6, 2), "dora_scale": (6, 1)},
    "full": {"diff": (6, 8)},
}


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("kind", LYCORIS)
def test_files_of_lycoris_are_read_and_written_again_as_they_were(kind: str, suffix: str, tmp_path: Path) -> None:
    stem = "lora_unet_mid_block_resnets_0_conv1"
    file = {f"{stem}.{name}": torch.randn(shape) for name, shape in LYCORIS[kind].items()}
    file[f"{stem}.alpha"] = torch.tensor(1.0)
    path = tmp_path / f"in.{suffix}"
    save_file(file, path) if suffix == "safetensors" else torch.save(file, path)
    assert formats.identify(path) == "kohya_lora"
    tensors, facts = kohya_lora.read(path)
    assert all(name.startswith("unet.mid_block.resnets.0.conv1.") for name in tensors)
    assert facts["alpha"] == 1.0
    again = kohya_lora.write(Artifact("lora", tensors, FACTS | facts), Draft(tmp_path))[0]
    assert_equal(read_tensors(again)[0], file)
    header = read_metadata(again)
    assert header["ss_network_module"] == ("networks.lora" if kind == "locon" else "lycoris.kohya")
    args = json.loads(header["ss_network_args"])
    assert args == {} if kind == "locon" else {"algo": "lora" if kind == "dora" else kind.partition("_")[0]}
    if kind != "dora":
        with pytest.raises(FormatError, match="is no plain LoRA: it has unet.mid_block.*write it as kohya_lora"):
            diffusers_lora.write(Artifact("lora", tensors, FACTS | facts), Draft(tmp_path))


def test_a_layer_that_lacks_a_factor_is_named(tmp_path: Path) -> None:
    stem = "lora_unet_mid_block_resnets_0_conv1"
    save_file(
        {f"{stem}.hada_w1_a": torch.ones(6, 2), f"{stem}.hada_w1_b": torch.ones(2, 8)}, tmp_path / "x.safetensors"
    )
    with pytest.raises(FormatError, match=r"`unet\.mid_block\.resnets\.0\.conv1` has no hada_w2_a, hada_w2_b"):
        kohya_lora.read(tmp_path / "x.safetensors")


def test_the_first_files_of_diffusers_are_pickles(tmp_path: Path) -> None:
    stem = "mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora"
    torch.save({f"{stem}.down.weight": torch.ones(4, 8), f"{stem}.up.weight": torch.ones(8, 4)}, tmp_path / "x.bin")
    assert formats.identify(tmp_path / "x.bin") == "diffusers_lora"
    tensors, _ = diffusers_lora.read(tmp_path / "x.bin")
    assert "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight" in tensors


def test_a_file_that_holds_no_known_form_is_not_identified(tmp_path: Path) -> None:
    save_file({"first_stage_model.a.b": torch.ones(2)}, tmp_path / "vae.safetensors")
    with pytest.raises(FormatError, match="first_stage_model"):
        formats.identify(tmp_path / "vae.safetensors")


def test_two_layers_with_one_tensor_in_a_pickle_are_written_each_with_its_own(tmp_path: Path) -> None:
    shared, stem = torch.randn(2, 8), "lora_unet_mid_block_attentions_0_proj_"
    halves = {f"{stem}{end}.lora_up.weight": torch.randn(4, 2) for end in ("in", "out")}
    torch.save(halves | {f"{stem}{end}.lora_down.weight": shared for end in ("in", "out")}, tmp_path / "x.pt")
    tensors, facts = kohya_lora.read(tmp_path / "x.pt")
    made = Artifact("lora", tensors, {"name": "x", "family": "sd1", **facts})
    again, _ = kohya_lora.read(kohya_lora.write(made, Draft(tmp_path))[0])
    assert torch.equal(again["unet.mid_block.attentions.0.proj_out.lora_A.weight"], shared)
