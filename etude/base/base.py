"""A base model in memory: the Stable Diffusion model that a method changes. `loading.load_base` loads one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etude.base.schedule import Prediction
from etude.base.settings import PLAIN, Text
from etude.base.unclip import Unclip
from etude.core.artifact import PRECISIONS
from etude.core.families import FAMILIES
from etude.core.params import Part

DTYPES: dict[str, torch.dtype] = {ours: getattr(torch, name) for ours, name in PRECISIONS.items()}
# For a method with its own noise, sampling and guidance: (prompts, seeds, width, height) → pictures uint8 [B, H, W, 3].
CustomSampler = Callable[[Any, Sequence[int], int, int], Tensor]


@dataclass(frozen=True)
class Base:
    """A loaded base. Modules are frozen and in eval mode; a part that was not loaded is None, or an empty tuple."""

    path: Path
    family: str  # its name in `etude.core.families`
    prediction: Prediction  # the output of the unet: the noise ε, or v = √ᾱ ε - √(1-ᾱ) z
    unet: Any  # UNet2DConditionModel
    vae: Any  # AutoencoderKL; in float32 if the base's configuration requires it, because half precision overflows
    text_encoders: tuple[Any, ...]  # those of the family, in its order; none for image variations
    tokenizers: tuple[Any, ...]  # CLIPTokenizer, one for each text encoder
    alphas_cumprod: Tensor  # ᾱ [1000] float32, on `device`: the share of signal in the variance at each timestep
    resolution: int  # side of the training pictures in px
    scaling_factor: float  # latents are the VAE's output times this
    device: torch.device
    dtype: torch.dtype
    schedule: dict[str, Any]  # the fields `schedule.SCHEDULE` of its scheduler's configuration
    words: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)  # words of `hooks.added_tokens` that are active
    custom_samplers: list[CustomSampler] = field(default_factory=list)  # of `hooks.custom_sampler`; the last is used
    unclip: Unclip | None = None  # how it is conditioned on a picture; None if it is not
    extra_negative_prompts: list[str] = field(default_factory=list)  # of `hooks.extra_negative_prompt`
    reading: Text = PLAIN  # how texts are read: chunks, and weights in brackets

    waiting: set[Part] = field(default_factory=set)  # parts that are on the host; `waiting.present` brings one

    @property
    def text_parts(self) -> tuple[str, ...]:
        """The names of the loaded text encoders in artifacts."""
        encoders = FAMILIES[self.family].text_encoders
        return tuple(encoder.part for encoder in encoders[: len(self.text_encoders)])

    @property
    def factor(self) -> int:
        """The size of a picture divided by that of its latents: 8 in every Stable Diffusion."""
        return 8
