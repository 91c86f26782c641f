"""A base without weights: modules of its true sizes, whose tensors have no values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from etude.base.base import Base
from etude.base.loading import SCHEDULER, resolution_of
from etude.base.single import CONFIGS, config_folder, single_scheduler
from etude.base.tokenizer import load_tokenizer
from etude.base.whole import empty_model
from etude.core.families import FAMILIES
from etude.core.model_folders import read_config
from etude.core.params import Part


def empty_base(path: Path, family: str, parts: tuple[Part, ...]) -> Base:
    """The base in ``path``, or where it is not there yet, the published model of its family; in float32.

    Call it in `counting`. Raises BaseError for a damaged configuration.
    """
    configs, record = CONFIGS / family, FAMILIES[family]
    single = path.is_file()
    if path.exists():
        configs = config_folder(path, family) if single else path
    scheduler = single_scheduler(path, family, configs) if single else read_config(configs / SCHEDULER)

    def load(part: str) -> Any:
        return empty_model(path, configs, record, part).to_empty(device="cpu").requires_grad_(False).eval()

    encoders = record.text_encoders if "text" in parts else ()
    return Base(
        path=path,
        family=family,
        prediction="epsilon",
        unet=load("unet") if "unet" in parts else None,
        vae=load("vae") if "vae" in parts else None,
        text_encoders=tuple(load(encoder.part) for encoder in encoders),
        tokenizers=tuple(load_tokenizer(configs / encoder.tokenizer, encoder.pad) for encoder in encoders),
        alphas_cumprod=torch.ones(1000),
        resolution=resolution_of(path, configs, record, scheduler),
        scaling_factor=1.0,
        device=torch.device("cpu"),
        dtype=torch.float32,
        scheduler_config={},
    )
