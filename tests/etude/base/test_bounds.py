"""Configurations that ask for what no model has: refused by field, before a model is made."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig

from etude.base.base import Base
from etude.base.bounds import ONLY, _number_fault, check_config
from etude.base.clip import ClipVision
from etude.base.fitting import refuse_misfits
from etude.base.loading import load_base
from etude.base.single import CONFIGS
from etude.core.errors import BaseError, EtudeWarning
from etude.core.families import FAMILIES
from tests.etude.conftest import change
from tests.tiny import build_tiny

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
    ("scheduler", "steps_offset", 1.5, "a whole number from 0 to 1"),
    ("scheduler", "steps_offset", 2, "a whole number from 0 to 1"),
    ("scheduler", "trained_betas", [0.1] * 100_001, "a list of 1 to 100000 entries"),
    ("unet", "attention_head_dim", [8] * 17, "a list of 1 to 16 entries"),
    ("unet", "freq_shift", -1, "a whole number from 0 to 8192"),
    ("text_encoder", "vocab_size", 10**6 + 1, "a whole number from 1 to 1000000"),
    ("text_encoder", "eos_token_id", 10**6 + 1, "a whole number from -1 to 1000000"),
    ("text_encoder", "num_hidden_layers", 0, "a whole number from 1 to 64"),
    ("unet", "cross_attention_dim", 8193, "a whole number from 1 to 8192"),
    ("unet", "num_attention_heads", 8193, "at most 8192"),
    ("unet", "num_attention_heads", float("inf"), "at most 8192"),
    ("unet", "num_attention_heads", 10**400, "at most 8192"),
    ("unet", "norm_eps", 10**400, "a number from 0 on"),
    ("unet", "norm_eps", -1e-5, "a number from 0 on"),
    ("unet", "downsample_padding", 0, "`1`"),
    ("unet", "downsample_padding", 2, "`1`"),
    ("unet", "conv_in_kernel", 4, "`3`"),
    ("unet", "conv_out_kernel", 5, "`3`"),
    ("unet", "dual_cross_attention", True, "`false`"),
    ("unet", "attention_type", "gated", '`"default"`'),
    ("unet", "time_embedding_type", "fourier", '`"positional"`'),
    ("unet", "resnet_time_scale_shift", "spatial", '`"default"` or `"scale_shift"`'),
    ("unet", "down_block_types", ["DownBlock2D", "KDownBlock2D"], '`"CrossAttnDownBlock2D"` or `"DownBlock2D"`'),
    ("unet", "up_block_types", ["SimpleCrossAttnUpBlock2D"], '`"CrossAttnUpBlock2D"` or `"UpBlock2D"`'),
    ("unet", "mid_block_type", "UNetMidBlock2DSimpleCrossAttn", ".* or `null`"),
    ("vae", "in_channels", 4, "`3`"),
    ("vae", "out_channels", 4, "`3`"),
    ("text_encoder", "return_dict", False, "`true`"),
]
# What becomes of each field of a model's class: a new field of a library must be decided on.
USED = {  # the model of diffusers or transformers that is made computes with it, or with the tensors that it asks for
    "unet": """sample_size center_input_sample flip_sin_to_cos freq_shift only_cross_attention
        block_out_channels layers_per_block mid_block_scale_factor act_fn norm_num_groups norm_eps cross_attention_dim
        transformer_layers_per_block reverse_transformer_layers_per_block attention_head_dim num_attention_heads
        use_linear_projection class_embed_type addition_embed_type addition_time_embed_dim upcast_attention
        time_embedding_dim time_embedding_act_fn timestep_post_act
        projection_class_embeddings_input_dim class_embeddings_concat""",
    "vae": """down_block_types up_block_types block_out_channels layers_per_block act_fn norm_num_groups scaling_factor
        force_upcast use_quant_conv use_post_quant_conv mid_block_add_attention""",
    "text_encoder": """vocab_size hidden_size intermediate_size projection_dim num_hidden_layers num_attention_heads
        max_position_embeddings hidden_act layer_norm_eps eos_token_id""",
}
REFUSED = {  # other values than the usual one, in `family` and `schedule`
    "unet": "in_channels out_channels encoder_hid_dim encoder_hid_dim_type num_class_embeds time_cond_proj_dim",
    "vae": "latent_channels shift_factor latents_mean latents_std",
    "text_encoder": "",
}
HARMLESS = {  # of training, of blocks that are refused, of outputs that are asked for by name, of tiles and padding
    "unet": """dropout addition_embed_type_num_heads resnet_skip_time_act resnet_out_scale_factor cross_attention_norm
        mid_block_only_cross_attention""",
    "vae": "sample_size",
    "text_encoder": """transformers_version architectures output_hidden_states dtype chunk_size_feed_forward id2label
        label2id problem_type attention_dropout initializer_range initializer_factor pad_token_id bos_token_id""",
}


@pytest.mark.parametrize(("part", "name", "value", "must"), WRONG)
def test_a_field_beyond_its_bounds_is_named(part: str, name: str, value: Any, must: str) -> None:
    with pytest.raises(BaseError, match=rf"config: `{name}` is .*, which must be {must}\. Next: ") as caught:
        check_config(Path("config"), {name: value}, KINDS[part])
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("part", "name", "values"),
    [
        ("unet", "layers_per_block", [1, 16, [1, 16, 1, 1]]),
        ("unet", "transformer_layers_per_block", [0, 64, [[0, 64]]]),
        ("unet", "reverse_transformer_layers_per_block", [[0, 64], None]),
        ("unet", "attention_head_dim", [8, [8] * 16]),
        ("unet", "cross_attention_dim", [1, 8192]),
        ("unet", "num_attention_heads", [8192, None]),
        ("unet", "freq_shift", [0, 1]),
        ("unet", "norm_eps", [1e-12, 1]),
        ("unet", "mid_block_scale_factor", [1, 1e-9, 100.0]),
        ("unet", "mid_block_type", ["UNetMidBlock2D", None]),
        ("unet", "resnet_time_scale_shift", ["default", "scale_shift"]),
        ("unet", "only_cross_attention", [True, [True, False, True, False]]),
        ("text_encoder", "num_hidden_layers", [1, 64]),
        ("text_encoder", "vocab_size", [1, 10**6]),
        ("text_encoder", "eos_token_id", [-1, 10**6]),
        ("text_encoder", "chunk_size_feed_forward", [0]),
        ("scheduler", "num_train_timesteps", [1, 10**5]),
        ("scheduler", "steps_offset", [0, 1]),
        ("scheduler", "beta_start", [0, 0.5]),
        ("scheduler", "trained_betas", [None, [0.1] * 10**5]),
    ],
)
def test_a_field_at_its_bounds_is_used(part: str, name: str, values: list[Any]) -> None:
    for value in values:
        check_config(Path("config"), {name: value}, KINDS[part])


@pytest.mark.parametrize("part", USED)
def test_every_field_of_a_model_is_used_or_refused_or_harmless(part: str) -> None:
    listed = [*" ".join((USED[part], REFUSED[part], HARMLESS[part])).split(), *ONLY[KINDS[part].__name__]]
    assert sorted(listed) == sorted(list(inspect.signature(KINDS[part].__init__).parameters)[1:])


def test_a_field_that_a_model_does_not_have_is_named() -> None:
    with pytest.warns(EtudeWarning, match="config: ignored, .* AutoencoderKL .* no such field: `downsample_padding`"):
        check_config(Path("config"), {"downsample_padding": 2, "_note": 1, "other": None}, AutoencoderKL)


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
    check_config(Path("config"), config | {"transformer_layers_per_block": [1, 1, 8, 0]}, UNet2DConditionModel)


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
        (
            "scheduler/scheduler_config.json",
            {"timestep_spacing": "no such"},
            "`timestep_spacing: 'no such'` is not supported",
        ),
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


@pytest.mark.parametrize(
    ("file", "values", "fault"),
    [
        ("unet/config.json", {"addition_time_embed_dim": 16}, r"reads 96 numbers .* the text's 48 and 6 × 16"),
        ("text_encoder_2/config.json", {"eos_token_id": 3}, "tokenizer_2 ends texts with token 689, .*looks for 3"),
        ("unet/config.json", {"cross_attention_dim": 64}, "reads texts of width 64 .*, and its encoder gives 80"),
    ],
    ids=str,
)
def test_parts_of_different_models_are_no_base(
    file: str, values: dict[str, Any], fault: str, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder_of("sdxl"), tmp_path / "base"))
    change(copy / file, **values)
    with pytest.raises(BaseError, match=f"{fault}.* Next: "):
        load_base(copy, parts=("text",))


@pytest.mark.parametrize(
    ("unet", "text", "fits"),
    [
        ({}, {"hidden_size": 1280}, True),
        ({"cross_attention_dim": 512}, {}, True),
        ({"cross_attention_dim": [512, 512]}, {"hidden_size": 512}, True),
        ({"cross_attention_dim": [512, 768]}, {"hidden_size": 512}, False),
        ({}, {}, False),
        ({"cross_attention_dim": 512}, {"hidden_size": "512"}, False),
    ],
)
def test_what_a_configuration_leaves_out_has_the_width_that_its_library_gives_it(
    unet: dict[str, Any], text: dict[str, Any], fits: bool, tmp_path: Path
) -> None:
    for part, values in (("unet", unet), ("text_encoder", text)):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(values))
    if fits:
        refuse_misfits(tmp_path, FAMILIES["sd1"])
    else:
        with pytest.raises(BaseError, match="its UNet reads texts of width"):
            refuse_misfits(tmp_path, FAMILIES["sd1"])


def test_a_tokenizer_with_more_words_than_the_text_encoder_is_refused(copy: Path) -> None:
    words = json.loads((copy / "tokenizer/vocab.json").read_text())
    change(copy / "tokenizer/vocab.json", **{"zork</w>": len(words)})
    with pytest.raises(
        BaseError, match=f"its tokenizer has {len(words) + 1} tokens, but its text_encoder has {len(words)}"
    ):
        load_base(copy, parts=("text",))


def test_an_image_encoder_of_another_width_is_refused(tmp_path: Path) -> None:
    folder = build_tiny(tmp_path / "base", variation=True)
    change(folder / "image_encoder/config.json", projection_dim=48)
    with pytest.raises(BaseError, match="reads pictures of width 32 .*, and its encoder gives 48"):
        load_base(folder, parts=("unet",))


CHANGES: list[dict[str, Any]] = [  # fields of a UNet without weights of their own
    {"center_input_sample": True},
    {"flip_sin_to_cos": False},
    {"freq_shift": 1},
    {"mid_block_scale_factor": 2.0},
    {"act_fn": "gelu"},
    {"norm_eps": 1e-3},
    {"attention_head_dim": 4},
    {"upcast_attention": True},
    {"timestep_post_act": "silu"},
    {"norm_num_groups": 4},
]


@pytest.mark.parametrize("values", CHANGES, ids=str)
def test_a_field_without_weights_changes_what_is_drawn(values: dict[str, Any], copy: Path, sd1: Base) -> None:
    change(copy / "unet/config.json", **values)
    arguments = torch.full((1, 4, 8, 8), 0.3).double(), torch.tensor([500]), torch.ones(1, 77, 32).double()
    found, before = (
        base.unet(*arguments).sample for base in (load_base(copy, dtype=torch.float64, parts=("unet",)), sd1)
    )
    assert found.shape == before.shape
    if "upcast_attention" not in values:  # it changes the precision alone
        assert not torch.allclose(found, before)


@pytest.mark.parametrize(("name", "value", "fault"), [("eps", 1.0, ""), ("eps", 1.01, "at most 1"), ("rate", 1.01, "")])
def test_what_is_added_to_a_variance_is_at_most_one(name: str, value: float, fault: str) -> None:
    assert _number_fault(name, [0.5, value]) == fault
