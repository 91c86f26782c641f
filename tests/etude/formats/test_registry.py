"""The folders are the registry, and what a file is does not depend on the order in which they are listed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import ModuleType

import pytest

from etude.core.errors import FormatError
from etude.core.pickles import BARE
from etude.formats import FORMATS, in_order, load_format
from etude.formats.delta.webui_delta import HEADER

ALL_LAYERS = "model.diffusion_model.input_blocks.0.0.weight"  # of differences, or of a whole model
PIPELINE = ("unet/config.json", "text_encoder/config.json", "vae/config.json")
SAMPLES: list[tuple[str, Collection[str], Mapping[str, str]]] = [
    ("kohya_lora", ["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"], {}),
    ("diffusers_lora", ["unet.mid_block.attentions.0.proj_in.lora_A.weight"], {}),
    ("peft_lora", ["unet/adapter_model.safetensors"], {}),
    ("peft_lora", ["unet/adapter_model.safetensors", *PIPELINE], {}),
    ("aesthetic_pt", [BARE], {}),
    ("clip_image_embedding", ["clip_image_embeds"], {}),
    ("embedding_pt", ["string_to_param", "name"], {}),
    ("embedding_image", ["sd-ti-embedding"], {}),
    ("embedding_safetensors", ["emb_params"], {}),
    ("embedding_safetensors", ["clip_l", "clip_g"], {}),
    ("diffusers_embedding", ["<owl>"], {}),
    ("diffusers_embedding", ["768"], {}),
    ("hypernetwork_pt", ["320", "768", "name"], {}),
    ("adobe_delta", ["unet", "modifier_token"], {}),
    ("webui_delta", [ALL_LAYERS], {HEADER: '{"entries": {}}'}),
    ("diffusers_custom_diffusion", ["mid_block.attn2.processor.to_k_custom_diffusion.weight"], {}),
    ("ldm_checkpoint", [ALL_LAYERS], {}),
    ("diffusers_checkpoint", PIPELINE, {}),
    ("null_text", ["latent", "null_embeddings"], {}),
]
NEVER = {"svd_lora", "embedding_pair"}  # whose files are those of another format


def after(name: str) -> tuple[str, ...]:
    module = load_format(name)
    assert isinstance(module, ModuleType)
    return tuple(vars(module).get("AFTER", ()))


@pytest.mark.parametrize(("name", "keys", "metadata"), SAMPLES)
def test_a_file_is_of_one_format_alone_or_the_others_say_that_they_are_asked_later(
    name: str, keys: Collection[str], metadata: Mapping[str, str]
) -> None:
    recognising = [form for form in in_order() if load_format(form).recognise(keys, metadata)]
    assert recognising[0] == name
    assert all(name in after(other) for other in recognising[1:])


@pytest.mark.parametrize(
    ("name", "keys", "metadata"),
    [
        ("kohya_lora", ["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", "x"], {}),
        ("kohya_lora", ["bundle_emb.a.clip_l"], {}),
        ("kohya_lora", [], {}),
        ("diffusers_lora", ["unet.mid_block.attentions.0.proj_in.alpha"], {}),
        ("diffusers_lora", ["unet.mid_block.attentions.0.proj_in.lora_A.weight", "x"], {}),
        ("diffusers_lora", [], {}),
        ("peft_lora", ["vae/adapter_model.safetensors"], {}),
        ("aesthetic_pt", [BARE, "x"], {}),
        ("clip_image_embedding", ["clip_image_embeds", "x"], {}),
        ("embedding_safetensors", ["clip_l", "x"], {}),
        ("embedding_safetensors", [], {}),
        ("diffusers_embedding", ["<owl>", "<dog>"], {}),
        ("diffusers_embedding", ["conv_in.weight"], {}),
        ("diffusers_embedding", ["clip_l"], {}),
        ("diffusers_embedding", [], {}),
        ("hypernetwork_pt", ["name", "step"], {}),
        ("adobe_delta", ["unet"], {}),
        ("adobe_delta", ["modifier_token"], {}),
        ("webui_delta", [ALL_LAYERS], {}),
        ("webui_delta", ["x"], {HEADER: '{"entries": {}}'}),
        ("diffusers_checkpoint", ["unet/config.json", "vae/config.json"], {}),
        ("diffusers_checkpoint", ["text_encoder/config.json"], {}),
        ("null_text", ["latent"], {}),
        ("null_text", ["latent", "null_embeddings", "x"], {}),
    ],
)
def test_a_file_that_lacks_a_key_or_has_another_is_not_of_the_format(
    name: str, keys: Collection[str], metadata: Mapping[str, str]
) -> None:
    assert not load_format(name).recognise(keys, metadata)


def test_every_format_has_a_sample_here_or_is_never_recognised() -> None:
    assert {name for name, _, _ in SAMPLES} == set(FORMATS) - NEVER


def test_every_name_that_a_format_waits_for_is_a_format() -> None:
    assert {other for name in FORMATS for other in after(name)} <= set(FORMATS)


def test_a_name_that_is_no_format_is_refused_with_those_that_are() -> None:
    with pytest.raises(FormatError, match=r"kohya_lor: is not a format of Étude\. Next: give one of .*kohya_lora"):
        load_format("kohya_lor")
