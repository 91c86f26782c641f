"""A base without weights: modules of its true sizes, whose tensors have no values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from etude.base.base import DTYPES, Base
from etude.base.loading import SCHEDULER, part_dtype, resolution_of
from etude.base.single import CONFIGS, config_folder, single_scheduler
from etude.base.tokenizer import load_tokenizer
from etude.base.whole import empty_model
from etude.core.families import FAMILIES
from etude.core.model_folders import read_config
from etude.diffusion.weights import parameters_of
from etude.training.opening import Opening


def empty_base(path: Path, family: str, how: Opening) -> Base:
    """The base in ``path``; if it does not exist yet, the published model of its family.

    Call it in `counting`. Raises BaseError for a damaged configuration.
    """
    configs, record = CONFIGS / family, FAMILIES[family]
    single = path.is_file()
    if path.exists():
        configs = config_folder(path, family) if single else path
    scheduler = single_scheduler(path, family, configs) if single else read_config(configs / SCHEDULER)

    dtype, vae_config = DTYPES[how.precision], read_config(configs / "vae" / "config.json")

    def load(part: str) -> Any:
        with _disable_current_modes():  # what the libraries do to create the model is not counted
            model = empty_model(path, configs / part, record, part)
        model = model.to_empty(device="cpu").requires_grad_(False).eval()
        for name, parameter in parameters_of(part, model).items():
            wide = how.wide(name)
            parameter.data = parameter.data.to(torch.float32 if wide else part_dtype(part, dtype, vae_config))
        return model

    encoders = record.text_encoders if "text" in how.parts else ()
    return Base(
        path=path,
        family=family,
        prediction="epsilon",
        unet=load("unet") if "unet" in how.parts else None,
        vae=load("vae") if "vae" in how.parts else None,
        text_encoders=tuple(load(encoder.part) for encoder in encoders),
        tokenizers=tuple(load_tokenizer(configs / encoder.tokenizer, encoder.pad) for encoder in encoders),
        alphas_cumprod=torch.ones(1000),
        resolution=resolution_of(path, configs, record, scheduler),
        scaling_factor=1.0,
        device=torch.device("cpu"),
        dtype=dtype,
        schedule={},
        waiting={*how.waiting},
    )
