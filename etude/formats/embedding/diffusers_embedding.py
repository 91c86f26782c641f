"""diffusers' embedding file ``learned_embeds.safetensors``: the token is the only key, and its rows [n, d] the value.

`load_textual_inversion` takes one text encoder a file, so SDXL's second has ``learned_embeds_2.safetensors``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.families import text_parts
from etude.core.files import Draft
from etude.core.pickles import read_either
from etude.core.spelling import as_read
from etude.core.tensors import write_tensors
from etude.formats.embeddings import LONE, rows, unknown
from etude.formats.metadata import modelspec

OTHERS = {*LONE, "clip_g", "text_encoders_1", "string_to_param"}  # single keys that are no tokens
# Any key may be a token, even the only key of these formats.
AFTER = ("aesthetic_pt", "clip_image_embedding", "embedding_image")


def recognise(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether there is one key, and it can be a token; or several that are the vectors of one token."""
    token = _token(keys)
    dotted = any("." in key for key in keys) and not re.fullmatch(r"<[^<>]+>", token)  # as names of layers are
    return bool(token) and not set(keys) & OTHERS and not dotted


def _token(keys: Collection[str]) -> str:
    """The only key, or the first of ``sks``, ``sks_1``, ``sks_2`` …, diffusers' vectors of one token; else ""."""
    first = min(keys, key=len, default="")
    return first if set(keys) == {first, *(f"{first}_{number}" for number in range(1, len(keys)))} else ""


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Rows of the (first) text encoder, and of the second if its file is beside; the token as the fact name."""
    path = Path(path)
    token, vectors = _one(path)
    first, *others = text_parts()
    found = {first: vectors}
    for part in others if path.name == _file(first) else ():
        if (beside := path.with_name(_file(part))).exists():
            found[part] = _one(beside)[1]
    return rows(path, found), {"name": token}


def _file(part: str) -> str:
    """The name of the file with a text encoder's rows."""
    return f"learned_embeds{part.removeprefix('text_encoder')}.safetensors"


def _one(path: Path) -> tuple[str, Tensor]:
    data, _ = read_either(path)
    if not recognise(data, {}):
        raise unknown(path, data)
    token = _token(data)
    vectors = [data[token], *(data[f"{token}_{number}"] for number in range(1, len(data)))]
    if len(vectors) == 1:
        return token, vectors[0]
    each = [rows(path, {token: vector})[token] for vector in vectors]
    if any(len(vector) > 1 for vector in each):
        some = ", ".join(repr(key) for key in sorted(data)[:3])
        fault = f"holds several words ({some}), or one word in a form that is not known"
        raise FormatError(path, fault, "save each word in a file of its own")
    return token, torch.cat(each)


def write(artifact: Artifact, draft: Draft) -> list[Path]:
    """One file a text encoder. Diffusers looks for the token in prompts as the tokenizer reads them."""
    token = as_read(str(artifact.facts["name"]))
    metadata = {"format": "pt"} | modelspec(artifact.facts, "textual-inversion")
    paths = []
    for part, tensor in sorted(artifact.tensors.items()):
        paths.append(draft.path(_file(part)))
        write_tensors(paths[-1], {token: tensor.contiguous()}, metadata)
    return paths
