"""What both sides of a training benchmark learn from: the same pictures, texts and weights, encoded once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from etude.base.conditioning import Conditioning
from etude.base.latents import encode_images
from etude.base.loading import load_base
from etude.base.text import encode_prompts
from etude.core.method import Method, needs
from etude.core.mixins import ReadsCaptions
from etude.core.params import MethodParams, read_yaml
from etude.training.batches import Captions, Images
from etude.training.prior import Prior

ROOT = Path(__file__).parent.parent
MINIATURE = ROOT / "models" / "miniature"
SET = ROOT / "data" / "samples" / "concept"
VOCABULARY = 49_408  # tokens of CLIP, in every Stable Diffusion; the miniature has 4,096


@dataclass(frozen=True)
class Inputs:
    """Moments ``mean`` and ``logvar`` [N, 4, h, w] of N pictures, their texts, and the texts' states [N, 77, d]."""

    mean: Tensor
    logvar: Tensor
    texts: tuple[str, ...]
    hidden: Tensor
    empty: Tensor
    pooled: Tensor | None = None  # [N, p], for SDXL

    def save(self, file: Path) -> None:
        """Write the tensors; texts are the names of the pictures."""
        save_file({name: getattr(self, name).contiguous() for name in ("mean", "logvar", "hidden", "empty")}, file)

    @property
    def images(self) -> Images:
        """The pictures, as methods get them."""
        return Images(self.texts, list(self.mean), list(self.logvar))

    @property
    def captions(self) -> Captions:
        """The captions, as methods get them; the name of a picture is its text."""
        pooled = self.pooled if self.pooled is not None else [None] * len(self.texts)
        states = {}
        for text, hidden, summary in zip(self.texts, self.hidden, pooled, strict=True):
            states[text] = Conditioning(hidden[None], None if summary is None else summary[None])
        empty = Conditioning(self.empty, None if self.pooled is None else self.pooled[:1])
        return Captions({text: text for text in self.texts}, states, empty)

    def given(self, method: Method, params: MethodParams) -> dict[str, Any]:
        """Inputs of the method's `build`, by the names of its arguments."""
        reads = not isinstance(params, ReadsCaptions) or params.reads_captions
        every = {
            "images": self.images,
            "captions": self.captions if reads else None,
            "class_images": Prior(self.images, self.captions),
        }
        return {name: every[name] for name in needs(method)}


def encode() -> Inputs:
    """The pictures of the shipped set, encoded by the miniature."""
    base = load_base(MINIATURE)
    pictures = [Image.open(file).convert("RGB").resize((128, 128)) for file in _files()]
    mean, logvar = encode_images(base, torch.from_numpy(np.stack([np.array(picture) for picture in pictures])))
    with torch.no_grad():
        states = encode_prompts(base, [*_texts(), ""]).hidden
    return Inputs(mean, logvar, _texts(), states[:-1].contiguous(), states[-1:].contiguous())


def read(file: Path) -> Inputs:
    """The inputs that `Inputs.save` wrote."""
    tensors = load_file(file)
    return Inputs(tensors["mean"], tensors["logvar"], _texts(), tensors["hidden"], tensors["empty"])


def shipped(method: str) -> dict[str, Any]:
    """The method's params of the demo."""
    values: dict[str, Any] = read_yaml(ROOT / "pipelines" / method / "params.yaml")
    return values


def _files() -> list[Path]:
    return sorted([*SET.glob("*.png"), *SET.glob("*.jpg")])


def _texts() -> tuple[str, ...]:
    return tuple(file.stem.replace("-", " ") for file in _files())
