"""A1111's embedding file ``<name>.pt``, in a form that its safe unpickler accepts. The trigger word is the file's name.

SD1 and SD2: a dictionary with ``string_to_param["*"]`` [n, d]; SDXL: ``clip_l`` and ``clip_g``.

A1111 (2025-11-12), ComfyUI (2025-10-12), SD.Next (2026-07-23), InvokeAI (2026-08-19) and kohya (2026-02-16) read the
same vectors from this file and from `embedding_safetensors`, for SD 1.x and XL, the last three for 2.x too. SD.Next
does not read the .pt of SDXL.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.files import Draft
from etude.core.pickles import read_pickle, write_pickle
from etude.formats.embeddings import keys_of, labels, one_vector, parts_of, rows
from etude.formats.metadata import word, word_stem

PLACEHOLDER, PLACEHOLDER_ID = "*", 265  # the token that the original code trained; readers look for it by name


def recognise(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether a pickle has the keys of A1111's dictionary."""
    return "string_to_param" in keys


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Rows by text encoder, and the facts name and step when the file has them."""
    data = read_pickle(path, lambda name: name != "string_to_token")  # numbers of tokens, which are not needed
    if parts := parts_of(data):
        return rows(path, {part: data[key] for key, part in parts.items()}), {}
    vector = one_vector(path, data)
    return rows(path, {"text_encoder": vector}), labels(data)


def write(artifact: Artifact, draft: Draft) -> list[Path]:
    """``<name>.pt`` in float32."""
    vectors = {part: tensor.detach().to("cpu", torch.float32).clone() for part, tensor in artifact.tensors.items()}
    data: dict[str, Any]
    if keys := keys_of(vectors):
        data = {keys[part]: tensor for part, tensor in sorted(vectors.items())}
    else:
        data = {
            "string_to_token": {PLACEHOLDER: PLACEHOLDER_ID},
            "string_to_param": {PLACEHOLDER: vectors["text_encoder"]},
            "name": word(artifact.facts),
            "step": artifact.facts.get("step"),
            "sd_checkpoint": None,
            "sd_checkpoint_name": artifact.facts.get("base"),
        }
    path = draft.path(f"{word_stem(artifact.facts)}.pt")
    write_pickle(path, data)
    return [path]
