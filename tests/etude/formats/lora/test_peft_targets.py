"""Which modules a configuration of PEFT is of: the same that PEFT's own function finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors.torch import save_file

from etude.core.errors import FormatError
from etude.formats.lora import peft_lora
from etude.formats.peft_targets import parse_targets

ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn2"
MODULES = [f"{ATTENTION}.to_q", f"{ATTENTION}.to_out.0", "to_q", "conv_in", "down_blocks.2.resnets.1.conv1"]
MODULES += ["encoder.layers.0.mlp.fc1", "encoder.layers.11.self_attn.q_proj", "text_model.encoder.layers.3.mlp.fc2"]
CONFIGS: list[dict[str, Any]] = [
    {"target_modules": ["to_q", "to_out.0"]},
    {"target_modules": ["attn2.to_q", "o_q", "fc1"]},
    {"target_modules": r".*attn2\.to_.*"},
    {"target_modules": "to_q"},
    {"target_modules": ["to_q", "fc1", "conv1"], "exclude_modules": ["attn2.to_q"]},
    {"target_modules": ["to_q", "fc1"], "exclude_modules": r".*layers\.0.*"},
    {"target_modules": ["fc1", "fc2", "q_proj", "to_q", "conv1"], "layers_to_transform": [0, 11]},
    {"target_modules": ["fc1", "fc2", "to_q"], "layers_to_transform": 3, "layers_pattern": "layers"},
    {"target_modules": ["fc1", "to_q"], "layers_to_transform": [0], "layers_pattern": ["transformer_blocks", "layers"]},
    {"target_modules": [MODULES[0], "fc2"], "layers_to_transform": [7]},
    {"target_modules": ["fc1"], "layers_to_transform": [], "exclude_modules": []},
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_the_modules_are_those_that_peft_finds(config: dict[str, Any]) -> None:
    targets, own = parse_targets("adapter", config), LoraConfig(**config)
    if isinstance(config["target_modules"], list):
        own.target_modules = config["target_modules"]
    assert [targets.has(name) for name in MODULES] == [bool(check_target_module_exists(own, name)) for name in MODULES]


def test_all_linear_is_no_convolution_and_nothing_named_is_everything() -> None:
    linear = parse_targets("adapter", {"target_modules": "all-linear"})
    assert [linear.has(name) for name in MODULES] == [True, True, True, False, False, True, True, True]
    assert all(parse_targets("adapter", {}).has(name) for name in MODULES)


VALUES = [{"target_modules": value} for value in ([3], 3, {"to_q": 1}, "(", "(a+)+b", "a" * 400)]
VALUES += [{"layers_to_transform": value} for value in ("0", [True], {"a": 1}, True)]
VALUES += [{"layers_pattern": value} for value in (["("], [3], "(a*)*")]


@pytest.mark.parametrize("fields", VALUES, ids=str)
def test_what_names_no_modules_is_refused_by_its_field(fields: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=next(iter(fields))):
        parse_targets("adapter", fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["to_k"]},
        {"exclude_modules": ".*to_q"},
        {"target_modules": ["to_q"], "layers_to_transform": 1},
    ],
    ids=str,
)
def test_tensors_that_peft_would_leave_out_are_refused_by_their_module(fields: dict[str, Any], tmp_path: Path) -> None:
    stem = f"base_model.model.{ATTENTION}.to_q"
    tensors = {f"{stem}.lora_A.weight": torch.ones(4, 16), f"{stem}.lora_B.weight": torch.ones(16, 4)}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 4} | fields))
    with pytest.raises(FormatError, match=r"adapter_config.json: leaves out `mid_block.*to_q`"):
        peft_lora.read(tmp_path)


@pytest.mark.parametrize("rank", [1, 2, 8])
def test_a_whole_factor_of_lokr_is_of_a_rank_for_which_peft_makes_one(rank: int, tmp_path: Path) -> None:
    stem = f"base_model.model.{ATTENTION}.to_q"
    tensors = {f"{stem}.lokr_w1": torch.ones(4, 4), f"{stem}.lokr_w2": torch.ones(4, 4)}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LOKR", "r": rank, "alpha": 2 * rank, "target_modules": ["to_q"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    if rank == 1:  # it makes two factors of rank 1, and ignores the whole one
        with pytest.raises(FormatError, match="rank 1, at which PEFT splits `lokr_w2`, but here it is not"):
            peft_lora.read(tmp_path)
    else:
        assert torch.equal(peft_lora.read(tmp_path)[0][f"unet.{ATTENTION}.to_q.lokr_w1"], 2 * torch.ones(4, 4))


@pytest.mark.parametrize(
    ("fields", "lengths", "said"),
    [
        ({"peft_type": "LOKR", "alpha": 4}, None, "is of the type LOKR, but .* has `lora_A"),
        (
            {"peft_type": "LOHA", "alpha": 4, "use_rslora": True},
            None,
            "`use_rslora`, but the type is LOHA",
        ),
        ({"peft_type": 0}, None, "an adapter of the type 0"),
        ({"peft_type": None}, None, "has no `peft_type`"),
        ({"use_dora": True}, torch.ones(1, 16), r"magnitude_vector` is \[1, 16\]: neither"),
    ],
    ids=str,
)
def test_what_is_not_of_the_adapters_type_is_refused(
    fields: dict[str, Any], lengths: torch.Tensor | None, said: str, tmp_path: Path
) -> None:
    stem = f"base_model.model.{ATTENTION}.to_q"
    tensors = {f"{stem}.lora_A.weight": torch.ones(4, 16), f"{stem}.lora_B.weight": torch.ones(16, 4)}
    tensors |= {} if lengths is None else {f"{stem}.lora_magnitude_vector": lengths}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": ["to_q"]} | fields
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError, match=said):
        peft_lora.read(tmp_path)
