"""Whether the parts of a base fit each other, by their configurations: if not, the first picture would fail."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etude.base.family import is_variation
from etude.core.errors import BaseError
from etude.core.families import Family, TextEncoder
from etude.core.model_folders import read_config

_ACTION = "fetch the whole base again: its parts belong to different models"
_PLAIN = 512  # transformers' default width of a text encoder, and of its projection
LAST = 2  # CLIP's eos_token_id in old configurations: transformers then finds the end by the largest id, rightly
_CONTEXT = 1280  # diffusers' default width of a UNet's conditioning


def refuse_misfits(configs: Path, family: Family) -> None:
    """Raise BaseError for text encoders, or the image encoder of variations, of another width than the UNet reads."""
    unet = read_config(configs / "unet" / "config.json")
    if is_variation(configs):
        encoder = read_config(configs / "image_encoder" / "config.json")
        _refuse_other_width(configs, unet, "pictures", _width(encoder, "projection_dim"))
        return
    encoders = [configs / encoder.part / "config.json" for encoder in family.text_encoders]
    if not all(file.exists() for file in encoders):
        return  # a single file, of which only other parts are loaded
    texts = [read_config(file) for file in encoders]
    _refuse_other_width(configs, unet, "texts", sum(_width(text, "hidden_size") for text in texts))
    if family.size_ids:
        _refuse_other_sizes(configs, unet, _width(texts[-1], "projection_dim"))


def refuse_other_words(path: Path, encoder: TextEncoder, tokenizer: Any, text: Any) -> None:
    """Raise BaseError for a tokenizer with tokens that its text encoder, with the configuration ``text``, lacks."""
    if len(tokenizer) > text.vocab_size:
        words = f"{len(tokenizer)} tokens, but its {encoder.part} has {text.vocab_size} (`vocab_size`)"
        fault = f"its {encoder.tokenizer} has {words}"
        raise BaseError(path, fault, _ACTION)
    if encoder.pooled and text.eos_token_id not in (LAST, tokenizer.eos_token_id):
        ends = f"{tokenizer.eos_token_id}, but its {encoder.part} looks for {text.eos_token_id} (`eos_token_id`)"
        raise BaseError(path, f"its {encoder.tokenizer} ends texts with token {ends}", _ACTION)


def _refuse_other_width(configs: Path, unet: Mapping[str, Any], what: str, width: int) -> None:
    wanted = unet.get("cross_attention_dim", _CONTEXT)
    if any(other != width for other in (wanted if isinstance(wanted, list) else [wanted])):
        fault = f"its UNet reads {what} of width {wanted} (`cross_attention_dim`), and its encoder gives {width}"
        raise BaseError(configs, fault, _ACTION)


def _refuse_other_sizes(configs: Path, unet: Mapping[str, Any], pooled: int) -> None:
    """Raise BaseError unless the UNet reads six sizes, each ``addition_time_embed_dim`` wide, and the pooled text."""
    each, whole = unet.get("addition_time_embed_dim"), unet.get("projection_class_embeddings_input_dim")
    if not isinstance(each, int) or whole != pooled + 6 * each:
        fault = f"its UNet reads {whole} numbers of sizes and text (`projection_class_embeddings_input_dim`)"
        must = f"{fault}, which must be the text's {pooled} and 6 × {each} (`addition_time_embed_dim`)"
        raise BaseError(configs, must, _ACTION)


def _width(text: Mapping[str, Any], name: str) -> int:
    value = text.get(name, _PLAIN)
    return value if isinstance(value, int) else 0
