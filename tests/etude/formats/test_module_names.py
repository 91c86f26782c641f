from __future__ import annotations

import re

import pytest
import torch
from diffusers import UNet2DConditionModel

from etude.core.families import FAMILIES
from etude.core.ldm_names import table_of
from etude.formats.module_names import escape, escape_ldm, unescape

SD15 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
TABLE = table_of(FAMILIES["sdxl"].blocks)


SDXL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def layers(config: dict[str, object]) -> list[str]:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    return [n for n, m in unet.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]


@pytest.mark.parametrize("config", [SD15, SDXL], ids=["sd15", "sdxl"])
def test_every_layer_of_the_true_unets_is_found_again(config: dict[str, object]) -> None:
    names = layers(config)
    assert len(names) > 250
    assert [unescape(escape(name)) for name in names] == names


@pytest.mark.parametrize(
    "name",
    ["encoder.layers.11.self_attn.out_proj", "encoder.layers.0.mlp.fc2", "text_projection"],
)
def test_layers_of_the_text_encoder_are_found_with_and_without_their_prefix(name: str) -> None:
    assert unescape(escape(name)) == name
    assert unescape("text_model_" + escape(name)) == name


def to_ldm(name: str) -> str:
    """diffusers' name of an SDXL layer in the LDM UNet, by the published map."""
    inside = {"conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1"}
    inside["conv_shortcut"] = "skip_connection"
    if ".resnets." in name:
        head, _, last = name.rpartition(".")
        name = f"{head}.{inside[last]}"
    singles = {"conv_in": "input_blocks.0.0", "conv_out": "out.2"}
    singles |= {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
    singles |= {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
    rules = [
        (r"down_blocks\.(\d)\.resnets\.(\d)", lambda i, j: f"input_blocks.{3 * i + j + 1}.0"),
        (r"down_blocks\.(\d)\.attentions\.(\d)", lambda i, j: f"input_blocks.{3 * i + j + 1}.1"),
        (r"down_blocks\.(\d)\.downsamplers\.(\d)\.conv", lambda i, _: f"input_blocks.{3 * i + 3}.0.op"),
        (r"up_blocks\.(\d)\.resnets\.(\d)", lambda i, j: f"output_blocks.{3 * i + j}.0"),
        (r"up_blocks\.(\d)\.attentions\.(\d)", lambda i, j: f"output_blocks.{3 * i + j}.1"),
        (r"up_blocks\.(\d)\.upsamplers\.(\d)\.conv", lambda i, _: f"output_blocks.{3 * i + 2}.2.conv"),
        (r"(mid)_block\.resnets\.(\d)", lambda _, j: f"middle_block.{2 * j}"),
        (r"(mid)_block\.attentions\.(\d)", lambda _, j: "middle_block.1"),
    ]
    for pattern, place in rules:
        match = re.match(pattern, name)
        if match:
            first, second = (int(part) if part.isdigit() else 0 for part in match.groups())
            return place(first, second) + name[match.end() :]
    return singles[name]


def test_every_layer_of_the_sdxl_unet_is_written_by_its_ldm_name() -> None:
    """A1111 1.10 (extensions-builtin/Lora/networks.py, load_network) looks for these names beside SD 1.x's.

    Its own table from diffusers' names puts the upsampler of the first level where SD 1.x has it, output_blocks_2_1.
    """
    names = layers(SDXL)
    assert [escape_ldm(name, TABLE) for name in names] == [escape(to_ldm(name)) for name in names]
    assert escape_ldm("up_blocks.0.upsamplers.0.conv", TABLE) == "output_blocks_2_2_conv"


def test_every_ldm_name_of_the_sdxl_unet_is_understood() -> None:
    names = layers(SDXL)
    assert [unescape(escape(to_ldm(name))) for name in names] == names


@pytest.mark.parametrize("name", ["double_blocks_0_img_attn_proj", "down_blocks_0_banana", "input_blocks_3_0_in", ""])
def test_a_name_of_another_network_is_not_guessed(name: str) -> None:
    assert unescape(name) is None
