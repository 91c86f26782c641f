"""A CLIP image embedding as ``<name>.safetensors``: ``clip_image_embeds`` [1, d] in float32.

No program has its own format for it; diffusers takes the tensor as ``image_embeds=``. The header names the base
with which it was learned, and the noise level. diffusers' pipeline of image variations takes only pictures;
its UNet gets the tensor, as [1, 1, d], as ``encoder_hidden_states``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.files import Draft
from etude.core.tensors import write_tensors
from etude.core.weights import read_weights
from etude.formats.metadata import file_stem

KEY = "clip_image_embeds"
TOLD = ("base", "name")  # facts that are in the header


def recognise(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether the only key is ``clip_image_embeds``."""
    return set(keys) == {KEY}


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensor ``clip_image_embeds`` [1, d], and the facts name, base and noise_level from the header."""
    tensors, metadata = read_weights(path)
    if not recognise(tensors, metadata) or tensors[KEY].ndim != 2:
        raise FormatError(path, f"holds no tensor `{KEY}` of shape [1, d]", "give a file that clip_inversion exported")
    facts: dict[str, Any] = {"name": Path(path).stem} | {name: metadata[name] for name in TOLD if name in metadata}
    if metadata.get("noise_level", "").isdigit():
        facts["noise_level"] = int(metadata["noise_level"])
    return tensors, facts


def write(artifact: Artifact, draft: Draft) -> list[Path]:
    """``<name>.safetensors``."""
    facts = artifact.facts
    labels = {name: str(facts[name]) for name in (*TOLD, "noise_level") if name in facts}
    path = draft.path(f"{file_stem(facts)}.safetensors")
    tensor = artifact.tensors[KEY].to("cpu", torch.float32)
    write_tensors(path, {KEY: tensor}, {"format": "pt", "method": "clip_inversion"} | labels)
    return [path]
