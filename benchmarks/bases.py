"""Bases of the published sizes with random weights: their speed does not depend on the values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import nn

from etude.base.base import Base
from etude.base.single import CONFIGS
from etude.core.families import FAMILIES
from etude.core.files import write_json
from etude.core.params import Part
from etude.memory.base import empty_base
from etude.training.opening import Opening

NOWHERE = Path("a base that is made up")  # does not exist, so that the family's published configuration is used


def random_base(family: str, how: Opening, device: str) -> Base:
    """A base of sd1, sd2 or sdxl as a build would open it, with small random weights, on ``device``."""
    base = empty_base(NOWHERE, family, how)
    for module in (base.unet, base.vae, *base.text_encoders):
        if module is not None:
            module.to(device)
            _fill(module)
    scheduler = schedule(family)
    return replace(base, device=torch.device(device), alphas_cumprod=scheduler.alphas_cumprod.to(device), waiting=set())


def write_base(folder: Path, family: str) -> None:
    """Write such a base as a diffusers folder, in float16, with CLIP's own tokenizer."""
    parts: tuple[Part, ...] = ("unet", "vae", "text")
    base = random_base(family, Opening(parts, (), "bf16", lambda _: False, recompute=False), "cpu")
    records = FAMILIES[family].text_encoders
    for encoder, record, tokenizer in zip(base.text_encoders, records, base.tokenizers, strict=True):
        encoder.half().save_pretrained(folder / record.part)
        tokenizer.save_pretrained(folder / record.tokenizer)
    base.unet.half().save_pretrained(folder / "unet")
    base.vae.half().save_pretrained(folder / "vae")
    schedule(family).save_pretrained(folder / "scheduler")
    write_json(folder / "model_index.json", dict(FAMILIES[family].index))


def schedule(family: str) -> Any:
    """The noise schedule of the family, as diffusers' scripts use it."""
    return DDPMScheduler.from_config(DDPMScheduler.load_config(str(CONFIGS / family / "scheduler")))


@torch.no_grad()
def _fill(module: nn.Module) -> None:
    """Fill the weights with numbers that keep activations finite; not zeros, with which a GPU computes faster."""
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=0.5 * parameter[0].numel() ** -0.5)
        else:
            parameter.normal_(mean=1.0, std=0.1)
    for name, buffer in module.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
