"""A base without weights: modules of its true sizes, whose tensors have no values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from etude.base.base import Base
from etude.base.family import read_config
from etude.base.single import CONFIGS, config_folder
from etude.base.tokenizer import load_tokenizer
from etude.core.families import FAMILIES, PLAIN, PROJECTED
from etude.core.params import Part

_TEXT_MODELS: dict[str, Any] = {PLAIN: CLIPTextModel, PROJECTED: CLIPTextModelWithProjection}


def empty_base(path: Path, family: str, parts: tuple[Part, ...], resolution: int, dtype: torch.dtype) -> Base:
    """The base in ``path``, or where it is not there yet, the published model of its family. Call it in `counting`.

    ``resolution`` in px is what previews are drawn at.
    """
    configs, record = CONFIGS / family, FAMILIES[family]
    if path.exists():
        configs = path if path.is_dir() else config_folder(path, family)
    unet = vae = None
    encoders: tuple[Any, ...] = ()
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        if "unet" in parts:
            unet = UNet2DConditionModel.from_config(read_config(configs / "unet" / "config.json"))
        if "vae" in parts:
            vae = AutoencoderKL.from_config(read_config(configs / "vae" / "config.json"))
        if "text" in parts:
            encoders = tuple(_text(configs / each.part, _TEXT_MODELS[each.model]) for each in record.text_encoders)
    finally:
        torch.set_default_dtype(before)
    for module in filter(None, (unet, vae, *encoders)):
        module.requires_grad_(False).eval()
    return Base(
        path=path,
        family=family,
        prediction="epsilon",
        unet=unet,
        vae=vae,
        text_encoders=encoders,
        tokenizers=tuple(load_tokenizer(configs / each.tokenizer, each.pad) for each in record.text_encoders),
        alphas_cumprod=torch.ones(1000),
        resolution=resolution,
        scaling_factor=1.0,
        device=torch.device("cpu"),
        dtype=dtype,
        scheduler_config={},
    )


def _text(folder: Path, kind: Any) -> Any:
    return kind(CLIPTextConfig(**read_config(folder / "config.json")))
