"""A base model: the Stable Diffusion that a method changes, as it is in memory. `loading.load_base` opens one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from etude.base.unclip import Unclip
from etude.core.artifact import PRECISIONS
from etude.core.families import FAMILIES

Prediction = Literal["epsilon", "v_prediction"]
DTYPES: dict[str, torch.dtype] = {ours: getattr(torch, name) for ours, name in PRECISIONS.items()}
# How a method draws that brings its own noise, path and guidance: (prompts, seeds, width, height) → uint8 [B, H, W, 3].
CustomSampler = Callable[[Any, Sequence[int], int, int], Tensor]


@dataclass(frozen=True)
class Base:
    """A loaded base. Modules are frozen and in eval mode; a part that was not asked for is None, or an empty tuple."""

    path: Path
    family: str  # its name in `etude.core.families`
    prediction: Prediction  # what the unet's output is: the noise ε, or v = √ᾱ ε - √(1-ᾱ) z
    unet: Any  # UNet2DConditionModel
    vae: Any  # AutoencoderKL; in float32 where the base says that half precision overflows
    text_encoders: tuple[Any, ...]  # those of the family, in its order; image variations: none
    tokenizers: tuple[Any, ...]  # CLIPTokenizer, one for each text encoder
    alphas_cumprod: Tensor  # ᾱ [1000] float32, on `device`: the share of signal in the variance at each timestep
    resolution: int  # side in px that it was trained at
    scaling_factor: float  # latents are the VAE's times this
    device: torch.device
    dtype: torch.dtype
    scheduler_config: dict[str, Any]
    words: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)  # those of `hooks.added_tokens`, active now
    custom_samplers: list[CustomSampler] = field(default_factory=list)  # of `hooks.custom_sampler`; the last draws
    unclip: Unclip | None = None  # how an unCLIP base is conditioned on a picture; None: the base knows no pictures
    extra_negative_prompts: list[str] = field(default_factory=list)  # of `hooks.extra_negative_prompt`

    @property
    def text_parts(self) -> tuple[str, ...]:
        """What artifacts call the text encoders."""
        encoders = FAMILIES[self.family].text_encoders
        return tuple(encoder.part for encoder in encoders[: len(self.text_encoders)])

    @property
    def factor(self) -> int:
        """Pixels to a side of a latent: 8 in every Stable Diffusion."""
        return 8
