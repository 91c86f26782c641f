"""Configurations that ask for what no model has: refused by field, before a model is made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig

from etude.base.bounds import check_config
from etude.base.clip import ClipVision
from etude.base.loading import load_base
from etude.base.single import CONFIGS
from etude.core.errors import BaseError
from tests.etude.conftest import change

KINDS: dict[str, type] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextConfig}
KINDS |= {"text_encoder_2": CLIPTextConfig, "scheduler": EulerDiscreteScheduler}
WRONG: list[tuple[str, str, Any, str]] = [
    ("unet", "layers_per_block", 100_000, "a whole number from 1 to 16"),
    ("unet", "layers_per_block", -1, "a whole number from 1 to 16"),
    ("unet", "layers_per_block", [2, 2, 2, 100_000], "a whole number from 1 to 16"),
    ("unet", "block_out_channels", [320] * 1000, "a list of 1 to 16 entries"),
    ("unet", "block_out_channels", [], "a list of 1 to 16 entries"),
    ("unet", "block_out_channels", None, "a value"),
    ("unet", "block_out_channels", 320, "a list"),
    ("vae", "up_block_types", "UpDecoderBlock2D", "a list"),
    ("unet", "transformer_layers_per_block", [[1, 65]], "a whole number from 0 to 64"),
    ("unet", "cross_attention_dim", 10**20, "a whole number from 1 to 8192"),
    ("unet", "num_attention_heads", 10**9, "at most 8192"),
    ("unet", "norm_eps", "1e-5", "a number from 0 on"),
    ("unet", "norm_eps", 0, "a number above 0"),
    ("unet", "norm_eps", float("nan"), "a number from 0 on"),
    ("unet", "norm_eps", 2.0, "at most 1"),
    ("unet", "mid_block_scale_factor", 0, "a number above 0"),
    ("unet", "flip_sin_to_cos", "false", "true or false"),
    ("unet", "act_fn", 3, "text"),
    ("unet", "norm_eps", [1e-5], "one value"),
    ("unet", "in_channels", {"a": 1}, "a whole number from 1 to 8192"),
    ("vae", "norm_num_groups", True, "a whole number from 1 to 8192"),
    ("vae", "force_upcast", "no", "true or false"),
    ("text_encoder", "num_hidden_layers", 10**6, "a whole number from 1 to 64"),
    ("text_encoder", "max_position_embeddings", 10**10, "a whole number from 1 to 8192"),
    ("text_encoder", "layer_norm_eps", None, "a value"),
    ("text_encoder", "eos_token_id", -7, "a whole number from -1 to 1000000"),
    ("scheduler", "num_train_timesteps", 10**10, "a whole number from 1 to 100000"),
    ("scheduler", "steps_offset", 1.5, "a whole number from 0 to 8192"),
]


@pytest.mark.parametrize(("part", "name", "value", "must"), WRONG)
def test_a_field_beyond_its_bounds_is_named(part: str, name: str, value: Any, must: str) -> None:
    with pytest.raises(BaseError, match=rf"config: `{name}` is .*, which must be {must}\. Next: ") as caught:
        check_config(Path("config"), {name: value}, KINDS[part])
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("kind", [AutoencoderKL, UNet2DConditionModel])
@pytest.mark.parametrize("values", [{"up_block_types": ["UpBlock2D"] * 3}, {"block_out_channels": [8] * 3}], ids=str)
def test_each_level_has_its_width_and_its_blocks(kind: type, values: dict[str, Any]) -> None:
    part = "vae" if kind is AutoencoderKL else "unet"
    config = json.loads((CONFIGS / "sd1" / part / "config.json").read_text()) | values
    with pytest.raises(BaseError, match=r"unequal numbers of levels \(`block_out_channels`: "):
        check_config(Path("config"), config, kind)


def test_layers_are_bounded_together() -> None:
    config = {"block_out_channels": [32] * 4, "layers_per_block": 4, "transformer_layers_per_block": [1, 1, 9, 1]}
    with pytest.raises(BaseError, match="asks for more than 128 layers"):
        check_config(Path("config"), config, UNet2DConditionModel)


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*/*/*config.json")), ids=lambda file: "/".join(file.parts[-3:]))
def test_published_configurations_are_within_the_bounds(file: Path) -> None:
    check_config(file, json.loads(file.read_text()), KINDS[file.parent.name])


@pytest.mark.parametrize(
    ("file", "values", "fault"),
    [
        ("unet/config.json", {"layers_per_block": 100_000}, "`layers_per_block` is 100000"),
        ("unet/config.json", {"in_channels": [4]}, "input channels"),
        ("unet/config.json", {"out_channels": 8}, "8 output channels"),
        ("unet/config.json", {"time_cond_proj_dim": 256}, r"guidance as an input \(LCM\)"),
        ("unet/config.json", {"norm_num_groups": 3}, "the configuration of its unet cannot be used"),
        (
            "text_encoder/config.json",
            {"num_attention_heads": 3},
            "the configuration of its text_encoder cannot",
        ),
        ("text_encoder/config.json", {"hidden_act": "no such"}, "the configuration of its text_encoder cannot"),
        ("scheduler/scheduler_config.json", {"timestep_spacing": "no such"}, "timestep_spacing 'no such'"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**10}, "`num_train_timesteps` is 10000000000"),
    ],
    ids=str,
)
def test_a_base_with_such_a_configuration_is_refused(file: str, values: dict[str, Any], fault: str, copy: Path) -> None:
    change(copy / file, **values)
    with pytest.raises(BaseError, match=f"{fault}.* Next: "):
        load_base(copy, parts=("unet", "text"))


def test_a_clip_with_such_a_configuration_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_base / "clip", tmp_path / "clip"))
    config = json.loads((folder / "config.json").read_text())
    change(folder / "config.json", vision_config=config["vision_config"] | {"num_hidden_layers": 10**9})
    with pytest.raises(BaseError, match="`num_hidden_layers` is 1000000000"):
        ClipVision(folder, "cpu", "")
