"""Changed layers as a LoRA, for programs that know nothing else: kohya's file, by the singular values of each change.

At full rank (320, 640 and 768 on SD 1.5's cross-attention) it is exact; at a lower rank, the nearest possible (Eckart
and Young, 1936). A LoRA cannot hold biases: they are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.files import Draft
from etude.core.weights import refuse_infinite
from etude.formats.checkpoints import Frame
from etude.formats.deltas import differences
from etude.formats.lora import kohya_lora
from etude.formats.pairs import Pair, join
from etude.formats.svd import truncated

read = kohya_lora.read


def recognise(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Never: the file is one of kohya's."""
    return False


def write(artifact: Artifact, draft: Draft, frame: Frame) -> list[Path]:
    """``<name>.safetensors`` of rank ``lora_rank`` (a fact; 0: full).

    All layers have one alpha, the largest rank: diffusers (0.42) ignores alphas that differ in a file of kohya's.
    """
    deltas = {f"unet.{n.removesuffix('.weight')}": d for n, d in differences(artifact, frame).items() if d.ndim == 2}
    if not any(delta.any() for delta in deltas.values()):
        fault = "has the same weights as its base in every layer that a LoRA can change"
        raise FormatError(str(artifact.facts.get("name", "artifact")), fault, "train it longer, or on another base")
    wanted, precision = int(artifact.facts.get("lora_rank", 0)), artifact.dtype
    ranks = {name: min(wanted or min(delta.shape), *delta.shape) for name, delta in deltas.items()}
    alpha = float(max(ranks.values()))
    tensors, facts = join({name: _pair(delta, ranks[name], alpha, precision) for name, delta in deltas.items()})
    for name, tensor in tensors.items():
        refuse_infinite(str(artifact.facts.get("name", "artifact")), f"`{name}`", tensor)
    return kohya_lora.write(Artifact("lora", tensors, {**artifact.facts, **facts}), draft)


def _pair(delta: Tensor, rank: int, alpha: float, precision: torch.dtype) -> Pair:
    """alpha/rank · up · down, each with the roots of the singular values: then both fit half precision."""
    u, s, vh = truncated(delta, rank)
    root = (s * rank / alpha).sqrt()
    down, up = root[:, None] * vh, u * root
    return Pair(down.to(precision).contiguous(), up.to(precision).contiguous(), alpha)
