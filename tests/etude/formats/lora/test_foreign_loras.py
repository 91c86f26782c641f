"""LoRAs of other programs: what they mean is what their own program computes, or one line says why they are refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from etude import formats
from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.factors import by_layer
from etude.core.files import Draft
from etude.core.tensors import read_tensors
from etude.diffusion.factors import change
from etude.formats.kinds import open_any
from etude.formats.lora import diffusers_lora, kohya_lora, peft_lora
from tests.etude.formats.lora.peft_net import Net

ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn2"
TO_Q, TO_K = f"unet.{ATTENTION}.to_q", f"unet.{ATTENTION}.to_k"
STEM = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_q"
FACTS = {"name": "sks", "family": "sd1", "prediction": "epsilon", "resolution": 512}


def saved_by_peft(config: Any, folder: Path, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A PEFT folder for a Net, learned at random; the weights before, and after PEFT has merged it."""
    torch.manual_seed(seed)
    net = Net()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    model = get_peft_model(net, config)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn_like(parameter) * 0.3
            if "magnitude" in name:
                parameter.data = parameter.data.abs() + 0.5
    model.save_pretrained(folder)
    merged = model.merge_and_unload()
    return before, {name: p.detach().clone() for name, p in merged.named_parameters()}


def changed(tensors: Mapping[str, Tensor], facts: Mapping[str, Any], before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a Net after a LoRA, by their names in it."""
    weights = {}
    for layer, factors in by_layer(tensors).items():
        name = f"{layer.removeprefix('unet.')}.weight"
        alpha = facts.get("alphas", {}).get(layer, facts["alpha"])
        weights[name] = before[name] + change(layer, factors, alpha, before[name])
    return weights


ALL = ["to_q", "to_k", "to_v", "conv1"]
CONFIGS: dict[str, Callable[[], Any]] = {
    "plain": lambda: LoraConfig(r=4, lora_alpha=3, target_modules=ALL),
    "rslora": lambda: LoraConfig(r=4, lora_alpha=3, target_modules=ALL, use_rslora=True),
    "alpha by pattern": lambda: LoraConfig(
        r=4, lora_alpha=3, target_modules=ALL, alpha_pattern={r".*attn2\.to_q": 16, "q": 9, "to_[kv]": 5, "to_k": 7}
    ),
    "rank by pattern": lambda: LoraConfig(
        r=4, lora_alpha=3, target_modules=ALL, rank_pattern={r"^mid_block.*to_k": 2, "conv1": 3}, use_rslora=True
    ),
    "gaussian": lambda: LoraConfig(r=4, lora_alpha=3, target_modules=ALL, init_lora_weights="gaussian"),
    "dora": lambda: LoraConfig(r=4, lora_alpha=3, target_modules=ALL, use_dora=True),
    "loha": lambda: LoHaConfig(r=4, alpha=3, target_modules=ALL),
    "loha, small convolution": lambda: LoHaConfig(r=4, alpha=3, target_modules=ALL, use_effective_conv2d=True),
    "lokr": lambda: LoKrConfig(r=2, alpha=3, target_modules=ALL),
    "lokr of whole factors": lambda: LoKrConfig(r=8, alpha=3, target_modules=ALL),
    "lokr of halves": lambda: LoKrConfig(r=1, alpha=3, target_modules=ALL, decompose_both=True, decompose_factor=4),
}


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.filterwarnings("ignore")  # PEFT's own
def test_a_folder_of_peft_changes_weights_as_peft_does(kind: str, tmp_path: Path) -> None:
    before, after = saved_by_peft(CONFIGS[kind](), tmp_path / "unet")
    assert formats.identify(tmp_path) == "peft_lora"
    weights = changed(*peft_lora.read(tmp_path), before)
    assert len(weights) == 4
    for name, weight in weights.items():
        assert torch.allclose(weight, after[name], atol=2e-6), name


@pytest.mark.parametrize("kind", ["plain", "rslora", "alpha by pattern", "rank by pattern", "dora"])
@pytest.mark.filterwarnings("ignore")
def test_the_header_of_diffusers_means_what_the_folder_of_peft_does(kind: str, tmp_path: Path) -> None:
    before, after = saved_by_peft(CONFIGS[kind](), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    named = {name.replace("base_model.model.", "unet."): tensor for name, tensor in tensors.items()}
    header = {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in config.items()})}
    path = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(named, path, header)
    weights = changed(*diffusers_lora.read(path), before)
    assert len(weights) == 4
    for name, weight in weights.items():
        assert torch.allclose(weight, after[name], atol=2e-6), name


PATTERNS = (
    "to_q",
    "to_[qk]",
    "attn2.to_q",
    ".*attn2.*",
    "q",
    "to_.",
    "conv.",
    "^mid_block.*",
    "^to_q",
    ".*",
    r".*\.to_v",
)


@pytest.mark.parametrize("number", range(12))
@pytest.mark.filterwarnings("ignore")
def test_random_configurations_mean_what_peft_reads_from_the_folder(number: int, tmp_path: Path) -> None:
    dice = random.Random(number)

    def patterns(largest: int) -> dict[str, int]:
        return {dice.choice(PATTERNS): dice.randint(1, largest) for _ in range(dice.randint(0, 3))}

    # One rank pattern at most: PEFT sorts several when it saves them, and then cannot read its own file.
    ranks = dict(list(patterns(8).items())[:1])
    shared: dict[str, Any] = {"r": dice.randint(1, 6), "rank_pattern": ranks, "alpha_pattern": patterns(20)}
    shared["target_modules"] = ALL
    configs = [
        LoraConfig(**shared, lora_alpha=5, use_rslora=number % 2 == 0, use_dora=number % 4 == 1),
        LoHaConfig(**shared, alpha=5, use_effective_conv2d=number % 2 == 0),
        LoKrConfig(**shared, alpha=5, decompose_both=number % 2 == 0, decompose_factor=dice.choice([-1, 2, 4])),
    ]
    before, _ = saved_by_peft(configs[number % 3], tmp_path, number)
    net = Net()
    net.load_state_dict(before)
    after = PeftModel.from_pretrained(net, str(tmp_path)).merge_and_unload()
    weights = changed(*peft_lora.read(tmp_path), before)
    assert len(weights) == 4
    for name, weight in weights.items():
        assert torch.allclose(weight, after.get_parameter(name), atol=1e-5, rtol=1e-4), name


@pytest.mark.filterwarnings("ignore")
def test_a_bias_of_b_is_added_to_the_bias_as_peft_does(tmp_path: Path) -> None:
    targets = ["to_q", "to_v", "conv1"]  # which have one
    config = LoraConfig(r=4, lora_alpha=3, target_modules=targets, lora_bias=True, use_rslora=True)
    before, after = saved_by_peft(config, tmp_path)
    tensors, facts = peft_lora.read(tmp_path)
    weights = changed(tensors, facts, before)
    assert len(weights) == 3
    for name, weight in weights.items():
        assert torch.allclose(weight, after[name], atol=2e-6), name
    biases = {name: tensor for name, tensor in tensors.items() if name.endswith(".diff_b")}
    assert len(biases) == 3
    for name, delta in biases.items():
        own = name.removeprefix("unet.").replace(".diff_b", ".bias")
        assert torch.allclose(before[own] + delta, after[own], atol=1e-6), name


MEANINGS = {
    "init_lora_weights": ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga", "something new"],
    "bias": ["all", "lora_only"],
    "fan_in_fan_out": [True],
    "modules_to_save": [["conv_in"]],
    "layer_replication": [[[0, 4], [2, 5]]],
    "target_parameters": [["experts.weight"]],
    "trainable_token_indices": [[1, 2]],
    "use_qalora": [True],
    "arrow_config": [{"top_k": 3}],
    "a field of tomorrow": [1, "yes"],
    "peft_type": ["OFT", "VERA", 3],
    "lora_alpha": ["4", None, True, float("nan"), [4]],
    "alpha_pattern": [["to_q"], {"to_q": "4"}, {"(": 4}, {"(a+)+": 4}, {".*.*.*.*.*q": 4}, {"a" * 400: 4}],
    "rank_pattern": [{f"{number}.*": 4 for number in range(17)}],
    "use_rslora": ["yes"],
    "use_dora": [True],
    "r": [8, 0],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field in MEANINGS for value in MEANINGS[field]])
def test_a_field_of_peft_that_changes_the_meaning_is_refused_by_name(field: str, value: Any, tmp_path: Path) -> None:
    tensors = {f"base_model.model.{ATTENTION}.to_q.lora_A.weight": torch.ones(4, 16)}
    tensors[f"base_model.model.{ATTENTION}.to_q.lora_B.weight"] = torch.ones(16, 4)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, field: value}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    word = {"peft_type": "adapter of the type", "r": "rank"}.get(field, field)
    with pytest.raises(FormatError, match=word):
        peft_lora.read(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_every_field_at_the_default_of_peft_is_harmless(tmp_path: Path) -> None:
    for number, config in enumerate((LoraConfig, LoHaConfig, LoKrConfig)):
        saved_by_peft(config(r=2, target_modules=["to_q"]), tmp_path / str(number))
        assert any(name.startswith(f"{TO_Q}.") for name in peft_lora.read(tmp_path / str(number))[0])


@pytest.mark.filterwarnings("ignore")
def test_pissa_is_what_peft_reads_once_peft_has_converted_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Net()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    model = get_peft_model(net, LoraConfig(r=2, lora_alpha=2, target_modules=["to_q"], init_lora_weights="pissa"))
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "start")
    model.peft_config["default"].init_lora_weights = "pissa"
    for parameter in model.parameters():
        parameter.data += 0.1 * parameter.requires_grad
    model.save_pretrained(tmp_path / "raw")
    with pytest.raises(FormatError, match="pissa"):
        peft_lora.read(tmp_path / "raw")
    model.save_pretrained(tmp_path / "converted", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    weights = changed(*peft_lora.read(tmp_path / "converted"), before)
    fresh = Net()
    fresh.load_state_dict(before)
    loaded = PeftModel.from_pretrained(fresh, str(tmp_path / "converted")).merge_and_unload()
    expected = loaded.get_parameter(f"{ATTENTION}.to_q.weight")
    assert torch.allclose(weights[f"{ATTENTION}.to_q.weight"], expected, atol=1e-6)


def test_a_file_of_peft_without_its_configuration_is_refused(tmp_path: Path) -> None:
    halves = {"lora_A.weight": torch.ones(4, 16), "lora_B.weight": torch.ones(16, 4)}
    for name in ("adapter_model", "renamed"):
        save_file(
            {f"base_model.model.{ATTENTION}.to_q.{k}": t for k, t in halves.items()}, tmp_path / f"{name}.safetensors"
        )
        with pytest.raises(FormatError, match="adapter_config.json beside it"):
            diffusers_lora.read(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize("pattern", ["^text_model.encoder.layers.0.mlp.fc1", "encoder.layers.0.mlp.fc1", "fc1"])
def test_patterns_name_a_text_encoder_as_older_and_newer_transformers_do(pattern: str, tmp_path: Path) -> None:
    stem = "text_encoder.text_model.encoder.layers.0.mlp.fc1"
    header = {"text_encoder.r": 4, "text_encoder.lora_alpha": 4, "text_encoder.alpha_pattern": {pattern: 7}}
    path = tmp_path / "pytorch_lora_weights.safetensors"
    tensors = pair(f"{stem}.lora_A.weight", f"{stem}.lora_B.weight")
    save_file(tensors, path, {"lora_adapter_metadata": json.dumps(header)})
    assert diffusers_lora.read(path)[1]["alpha"] == 7


@pytest.mark.parametrize("text", ["null", "{}"])
def test_an_empty_header_of_diffusers_is_as_if_it_were_not_there(text: str, tmp_path: Path) -> None:
    path = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(pair(f"{TO_Q}.lora_A.weight", f"{TO_Q}.lora_B.weight"), path, {"lora_adapter_metadata": text})
    assert diffusers_lora.read(path)[1] == {"rank": 4, "alpha": 4.0}


@pytest.mark.parametrize("text", ["[]", "3", '"unet"', "{", "[" * 100_000])
def test_a_header_of_diffusers_that_holds_no_fields_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(pair(f"{TO_Q}.lora_A.weight", f"{TO_Q}.lora_B.weight"), path, {"lora_adapter_metadata": text})
    with pytest.raises(FormatError, match="lora_adapter_metadata"):
        diffusers_lora.read(path)


def pair(down: str, up: str, rank: int = 4, width: int = 16) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {down: torch.randn(rank, width), up: torch.randn(16, rank)}


# Spellings of one layer, as each program writes them.
SPELLED = {
    "ComfyUI, of the UNet": (
        "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_q.lora_down.weight",
        f"unet.{ATTENTION}.to_q",
    ),
    "ComfyUI, with PEFT's halves": (
        "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_out.0.lora_A.weight",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0",
    ),
    "ComfyUI, CLIP-L": (
        "text_encoders.clip_l.transformer.text_model.encoder.layers.3.self_attn.q_proj.lora_down.weight",
        "text_encoder.encoder.layers.3.self_attn.q_proj",
    ),
    "ComfyUI, CLIP-G": (
        "text_encoders.clip_g.transformer.text_model.encoder.layers.3.mlp.fc1.lora_down.weight",
        "text_encoder_2.encoder.layers.3.mlp.fc1",
    ),
    "OneTrainer, ORIGINAL": ("unet.output_blocks.3.0.in_layers.2.lora_down.weight", "unet.up_blocks.1.resnets.0.conv1"),
    "OneTrainer, ORIGINAL of 2026": (
        "middle_block.2.emb_layers.1.lora_A.weight",
        "unet.mid_block.resnets.1.time_emb_proj",
    ),
    "OneTrainer, CLIP-L": (
        "clip_l.text_model.encoder.layers.0.mlp.fc2.lora_down.weight",
        "text_encoder.encoder.layers.0.mlp.fc2",
    ),
    "OneTrainer, inside": (f"lora_unet.{ATTENTION}.to_q.lora_down.weight", f"unet.{ATTENTION}.to_q"),
    "OneTrainer, dotted": (f"unet.{ATTENTION}.to_q.lora_down.weight", f"unet.{ATTENTION}.to_q"),
    "OneTrainer, second text encoder": (
        "lora_te2.text_model.encoder.layers.0.self_attn.out_proj.lora_down.weight",
        "text_encoder_2.encoder.layers.0.self_attn.out_proj",
    ),
}


@pytest.mark.parametrize("program", SPELLED)
def test_dotted_names_of_other_programs_are_read(program: str, tmp_path: Path) -> None:
    key, layer = SPELLED[program]
    up = key.replace("lora_down", "lora_up").replace("lora_A", "lora_B")
    tensors = pair(key, up)
    stem = key.removesuffix(".lora_down.weight").removesuffix(".lora_A.weight")
    save_file({**tensors, f"{stem}.alpha": torch.tensor(2.0)}, tmp_path / "x.safetensors")
    assert formats.identify(tmp_path / "x.safetensors") == "diffusers_lora"
    found, facts = diffusers_lora.read(tmp_path / "x.safetensors")
    assert facts == {"rank": 4, "alpha": 2.0}
    assert torch.equal(found[f"{layer}.lora_A.weight"], tensors[key])
    assert torch.equal(found[f"{layer}.lora_B.weight"], tensors[up])


def kohya(**others: Tensor) -> dict[str, Tensor]:
    return {**pair(f"{STEM}.lora_down.weight", f"{STEM}.lora_up.weight"), **others}


def written(tensors: Mapping[str, Tensor], tmp_path: Path, metadata: dict[str, str] | None = None) -> Path:
    path = tmp_path / "x.safetensors"
    save_file(dict(tensors), path, metadata)
    return path


@pytest.mark.parametrize(
    ("suffix", "tensor", "said"),
    [
        ("alpha", torch.tensor(float("nan")), r"alpha.*nan"),
        ("alpha", torch.tensor(float("inf")), r"alpha.*inf"),
        ("alpha", torch.ones(4), r"alpha` has 4 values"),
        ("alpha", torch.tensor(1 + 0j), r"alpha` is \(1\+0j\), which is no finite number"),
        ("alpha", torch.ones(0), r"alpha` is empty"),
        ("scalar", torch.ones(2), r"scalar` has 2 values"),
        ("dora_scale", torch.ones(3), r"dora_scale` is \[3\]: neither \[16, 1\] nor \[1, 16\]"),
        ("dora_scale", torch.ones(4, 4), r"dora_scale` is \[4, 4\]"),
        ("dora_scale", torch.ones(1, 4), r"dora_scale` is \[1, 4\]"),
        ("hada_w1_a", torch.ones(16, 4), r"several kinds: hada_w1_a, lora_A.weight, lora_B.weight"),
        ("diff", torch.ones(16, 16), r"several kinds: diff, lora_A.weight, lora_B.weight"),
        ("lora_A.weight", torch.ones(4, 16), r"has one tensor under two names"),
    ],
)
def test_a_tensor_that_cannot_be_meant_is_named(suffix: str, tensor: Tensor, said: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=said):
        kohya_lora.read(written(kohya(**{f"{STEM}.{suffix}": tensor}), tmp_path))


def test_a_rank_of_zero_is_refused_with_the_name_of_the_tensor(tmp_path: Path) -> None:
    empty = {f"{STEM}.lora_down.weight": torch.zeros(0, 16), f"{STEM}.lora_up.weight": torch.zeros(16, 0)}
    with pytest.raises(FormatError, match=r"to_q.lora_(down|up).weight` is empty: \[(0, 16|16, 0)\]"):
        kohya_lora.read(written(empty, tmp_path))


@pytest.mark.parametrize(
    "stem",
    ["lycoris_text_model_encoder_layers_0_mlp_fc1", "lora_unet_encoder_layers_0_mlp_fc1", "lora_te_mid_block_conv1"],
)
def test_a_layer_of_another_part_than_its_prefix_says_is_refused(stem: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=stem):
        kohya_lora.read(written(pair(f"{stem}.lora_down.weight", f"{stem}.lora_up.weight"), tmp_path))


def test_two_spellings_of_one_layer_in_a_file_are_refused(tmp_path: Path) -> None:
    stems = ("lora_te_text_model_encoder_layers_0_mlp_fc1", "lora_te1_text_model_encoder_layers_0_mlp_fc1")
    tensors: dict[str, Tensor] = {}
    for stem in stems:
        tensors |= pair(f"{stem}.lora_down.weight", f"{stem}.lora_up.weight")
    with pytest.raises(FormatError, match="has one tensor under two names"):
        kohya_lora.read(written(tensors, tmp_path))


def test_an_alpha_of_zero_changes_nothing(tmp_path: Path) -> None:
    tensors, facts = kohya_lora.read(written(kohya(**{f"{STEM}.alpha": torch.tensor(0.0)}), tmp_path))
    assert facts["alpha"] == 0
    assert not change(TO_Q, by_layer(tensors)[TO_Q], facts["alpha"], torch.randn(16, 16)).any()


@pytest.mark.parametrize(("shape", "axis"), [((16,), 0), ((16, 1), 0), ((1, 16), 1)])
def test_the_shape_of_lengths_says_whose_they_are_on_square_layers_too(
    shape: tuple[int, ...], axis: int, tmp_path: Path
) -> None:
    weight, lengths = torch.randn(16, 16), torch.rand(16) + 0.5
    tensors, facts = kohya_lora.read(written(kohya(**{f"{STEM}.dora_scale": lengths.reshape(shape)}), tmp_path))
    after = weight + change(TO_Q, by_layer(tensors)[TO_Q], facts["alpha"], weight)
    assert torch.allclose(after.norm(dim=1 - axis), lengths, atol=1e-5)
    for writer in (kohya_lora, diffusers_lora):
        if writer is diffusers_lora and axis:
            continue
        again = writer.read(
            writer.write(Artifact("lora", tensors, FACTS | facts), Draft(tmp_path / writer.__name__))[0]
        )
        found = weight + change(TO_Q, by_layer(again[0])[TO_Q], again[1]["alpha"], weight)
        assert torch.allclose(found, after, atol=1e-5)


def test_lengths_of_inputs_are_not_written_where_they_would_be_of_outputs(tmp_path: Path) -> None:
    tensors, facts = kohya_lora.read(written(kohya(**{f"{STEM}.dora_scale": torch.rand(1, 16) + 0.5}), tmp_path))
    with pytest.raises(FormatError, match=r"has in `unet.*to_q.dora_scale` one number for each input;.*kohya_lora"):
        diffusers_lora.write(Artifact("lora", tensors, FACTS | facts), Draft(tmp_path / "out"))


@pytest.mark.parametrize(
    ("args", "tensors", "said"),
    [
        (
            {"algo": "lora", "wd_on_output": "False"},
            {f"{STEM}.dora_scale": torch.ones(16)},
            "for each input, but .* for each output",
        ),
        (
            {"algo": "lora", "wd_on_output": False},
            {f"{STEM}.dora_scale": torch.ones(16, 1)},
            "for each input, but .* for each output",
        ),
        ({"rs_lora": "True"}, {}, "rs_lora"),
    ],
)
def test_network_args_that_contradict_or_change_the_tensors_are_refused(
    args: dict[str, Any], tensors: dict[str, Tensor], said: str, tmp_path: Path
) -> None:
    header = {"ss_network_args": json.dumps(args), "ss_network_module": "networks.lora"}
    with pytest.raises(FormatError, match=said):
        kohya_lora.read(written(kohya(**tensors), tmp_path, header))


@pytest.mark.parametrize("text", ["null", "None", "", '{"rs_lora": "False", "wd_on_output": "True"}'])
def test_network_args_that_say_nothing_change_nothing(text: str, tmp_path: Path) -> None:
    assert kohya_lora.read(written(kohya(), tmp_path, {"ss_network_args": text}))[1]["alpha"] == 4


def test_the_alpha_of_lycoris_holds_the_root_of_the_rank_already(tmp_path: Path) -> None:
    header = {"ss_network_args": json.dumps({"algo": "lora", "rs_lora": "True"}), "ss_network_module": "lycoris.kohya"}
    path = written(kohya(**{f"{STEM}.alpha": torch.tensor(4.0)}), tmp_path, header)
    assert kohya_lora.read(path)[1]["alpha"] == 4.0


def test_a_suffix_in_capital_letters_is_a_suffix(tmp_path: Path) -> None:
    save_file(kohya(), tmp_path / "LORA.SAFETENSORS")
    name, artifact = open_any(tmp_path / "LORA.SAFETENSORS")
    assert (name, artifact.facts["name"], artifact.facts["alpha"]) == ("kohya_lora", "LORA", 4)


UNKNOWN = {
    "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": "FLUX",
    "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": "FLUX",
    "lllite_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.down.0.weight": "a ControlNet-LLLite",
    "control_model.input_blocks.0.0.weight": "a ControlNet",
    "ip_adapter.1.to_k_ip.weight": "an IP-Adapter",
    "down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": "an AnimateDiff motion module",
    "first_stage_model.decoder.conv_in.weight": "a VAE",
    "oft_unet_mid_block_attentions_0_proj_in.oft_blocks": "an OFT of kohya's own kind",
    "x.lora_unknown": "a LoRA with names of its own",
}


@pytest.mark.parametrize("key", UNKNOWN)
def test_an_unknown_file_is_refused_by_what_it_holds_and_looks_like(key: str, tmp_path: Path) -> None:
    path = written({key: torch.ones(2, 2)}, tmp_path)
    with pytest.raises(FormatError) as caught:
        load = formats.load_format(formats.identify(path))
        load.read(path)
    assert "1 name" in str(caught.value)
    assert UNKNOWN[key] in str(caught.value)
    assert "kohya_lora, " not in str(caught.value)


@pytest.mark.parametrize("out", [16, 24])
@pytest.mark.parametrize("kernel", [(), (1, 1)])
def test_halves_of_glora_are_told_by_their_shapes_where_older_programs_named_them(
    out: int, kernel: tuple[int, ...], tmp_path: Path
) -> None:
    """Until May 2024 LyCORIS computed b2·b1 + W·a2·a1 (lycoris/modules/glora.py at f16b0a4)."""
    torch.manual_seed(0)
    a1, a2, b1 = torch.randn(4, 16, *kernel), torch.randn(16, 4, *kernel), torch.randn(4, 16, *kernel)
    b2, weight = torch.randn(out, 4, *kernel), torch.randn(out, 16, *kernel)
    old = {f"{STEM}.{name}.weight": tensor for name, tensor in {"a1": a1, "a2": a2, "b1": b1, "b2": b2}.items()}
    tensors, facts = kohya_lora.read(written(old, tmp_path))
    flat = [tensor.flatten(1) for tensor in (weight, a1, a2, b1, b2)]
    expected = flat[4] @ flat[3] + flat[0] @ flat[2] @ flat[1]
    found = change(TO_Q, by_layer(tensors)[TO_Q], facts["alpha"], weight)
    assert torch.allclose(found.flatten(1), expected, atol=1e-5)
    with pytest.raises(FormatError, match="GLoRA of LyCORIS before 3.0 with alpha 1 and rank 4"):
        kohya_lora.read(written({**old, f"{STEM}.alpha": torch.tensor(1.0)}, tmp_path))


def test_an_embedding_in_the_file_of_a_lora_is_read_with_it_and_written_again(tmp_path: Path) -> None:
    rows = {"bundle_emb.zork.string_to_param.*": torch.randn(2, 32), "bundle_emb.a.owl.clip_l": torch.randn(32)}
    path = written(kohya(**rows), tmp_path)
    assert formats.identify(path) == "kohya_lora"
    tensors, facts = kohya_lora.read(path)
    assert facts["words"] == ["a.owl", "zork"]
    assert torch.equal(tensors["words.1.text_encoder"], rows["bundle_emb.zork.string_to_param.*"])
    assert torch.equal(tensors["words.0.text_encoder"][0], rows["bundle_emb.a.owl.clip_l"])
    artifact = Artifact("lora", tensors, FACTS | facts)
    again = read_tensors(kohya_lora.write(artifact, Draft(tmp_path))[0])[0]
    assert torch.equal(again["bundle_emb.zork.string_to_param.*"], rows["bundle_emb.zork.string_to_param.*"])
    for other in (diffusers_lora, peft_lora):
        with pytest.raises(FormatError, match=r"words\.0\.text_encoder.*kohya_lora"):
            other.write(artifact, Draft(tmp_path / "other"))


def test_an_embedding_of_both_encoders_in_the_file_of_a_lora(tmp_path: Path) -> None:
    rows = {"bundle_emb.zork.clip_l": torch.randn(2, 768), "bundle_emb.zork.clip_g": torch.randn(2, 1280)}
    tensors, facts = kohya_lora.read(written(kohya(**rows), tmp_path))
    assert facts["words"] == ["zork"]
    assert torch.equal(tensors["words.0.text_encoder_2"], rows["bundle_emb.zork.clip_g"])
    again = read_tensors(kohya_lora.write(Artifact("lora", tensors, FACTS | facts), Draft(tmp_path))[0])[0]
    assert {name for name in again if name.startswith("bundle_emb")} == set(rows)


def test_an_embedding_that_is_in_a_lora_twice_is_refused(tmp_path: Path) -> None:
    rows = {f"bundle_emb.zork.{name}": torch.ones(2, 32) for name in ("emb_params", "clip_l")}
    with pytest.raises(FormatError, match="has the embedding of `zork` twice"):
        kohya_lora.read(written(kohya(**rows), tmp_path))


@pytest.mark.parametrize("key", ["bundle_emb.zork.clip_l_out", "bundle_emb..clip_l", "bundle_emb.zork"])
def test_an_embedding_that_cannot_be_used_is_named(key: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=key.replace(".", r"\.")):
        kohya_lora.read(written(kohya(**{key: torch.ones(2, 32)}), tmp_path))
