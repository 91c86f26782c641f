"""How large the files of every method are on the real SD 1.5: counted from its configuration, without weights.

These are the bytes of the values; a file's header adds a few thousand. The methods' own code selects the layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.core.files import write_json
from tasks.shell import run

if TYPE_CHECKING:
    from torch import nn

STRUCTURES = (
    (1, 2, 1), (1, 2, 2, 1), (1, 3, 1), (1, 4, 1), (1, 1.5, 1.5, 1), (1, 1.5, 1.5, 1.5, 1),
    (1, 2, 2, 2, 1), (1, 2, 3, 2, 1), (1, 0.75, 0.5, 0.5, 0.5, 0.75, 1),
)  # fmt: skip
FP16, FP32 = 2, 4  # bytes a value
STEPS, TOKENS, LATENT = 50, 77, 4 * 64 * 64  # null-text as published: DDIM steps, tokens of a text, values of a latent
KOHYA = ("attention", "feed_forward", "projection")  # kohya's default layers for a LoRA, text encoder too


def sizes(to: Path) -> None:
    """Write bytes by name, as JSON, to TO.

    Example: etude sizes sizes.json
    """
    words: Any = _part("sd1", "text_encoder")
    width = words.get_input_embeddings().embedding_dim  # also the width of CLIP's joint space, for ViT-L/14
    vector = FP32 * width
    counted = {
        "a vector of textual inversion": vector,
        "a vector of DreamArtist": vector,
        "an aesthetic embedding": vector,
        "a CLIP image embedding": vector,
        "null-text, one picture": FP32 * (STEPS * TOKENS * width + LATENT),
        **{f"hypernetwork {_listed(s)}": FP32 * _hypernetwork(s) for s in STRUCTURES},
        "Custom Diffusion, fp16": FP16 * _custom_diffusion("sd1"),
        "Custom Diffusion, fp16, SD 2.1": FP16 * _custom_diffusion("sd2"),
        "LoRA of rank 4, fp16": FP16 * _lora(4),
        "LoRA of rank 128, fp16": FP16 * _lora(128),
        "checkpoint, fp16": FP16 * _values(("unet", "vae", "text_encoder")),
        "checkpoint, fp32": FP32 * _values(("unet", "vae", "text_encoder")),
        "checkpoint, fp32, with EMA": FP32 * _values(("unet", "unet", "vae", "text_encoder")),
    }
    write_json(to, counted)


@cache
def _part(family: str, part: str) -> nn.Module:
    """A part of a family's real model, without values."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from etude.base.single import CONFIGS
    from etude.core.model_folders import read_config

    made: nn.Module
    config = read_config(CONFIGS / family / part / "config.json")
    with torch.device("meta"):
        if part == "text_encoder":
            made = CLIPTextModel(CLIPTextConfig(**config))
        else:
            made = (UNet2DConditionModel if part == "unet" else AutoencoderKL).from_config(config)
    return made


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _values(parts: Iterable[str]) -> int:
    return sum(_count(_part("sd1", part).parameters()) for part in parts)


def _listed(structure: Sequence[float]) -> str:
    return ", ".join(f"{multiple:g}" for multiple in structure)


def _hypernetwork(structure: tuple[float, ...]) -> int:
    import torch

    from pipelines.hypernetwork.method.networks import Design, input_widths, make_networks

    design = Design(structure, "linear", activate_output=False, layer_norm=False)
    with torch.device("meta"):
        return _count(make_networks(input_widths(_part("sd1", "unet")), design).parameters())


def _custom_diffusion(family: str) -> int:
    from pipelines.custom_diffusion.method.settings import LEARNED

    named = _part(family, "unet").named_parameters()
    return _count(value for name, value in named if re.search(LEARNED["crossattn_kv"], name))


def _lora(rank: int) -> int:
    """A down and an up matrix of this rank for every layer that kohya's scripts choose: r · (inputs + outputs)."""
    from pipelines.lora.method.settings import TARGETS

    chosen = re.compile(rf"(.*\.)?({'|'.join(TARGETS[target] for target in KOHYA)})")
    layers = [layer for part in ("unet", "text_encoder") for layer in _part("sd1", part).named_modules()]
    weights = [layer.weight for name, layer in layers if chosen.fullmatch(name)]
    return sum(rank * (weight[0].numel() + weight.shape[0]) for weight in weights)


if __name__ == "__main__":
    run(sizes)
