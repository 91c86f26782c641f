"""The delta file of the web UI's custom-diffusion extension: ``<name>.delta.safetensors``, applied as ``<delta:…>``.

Differences by LDM names, ``model.diffusion_model.…``, or factors ``….US`` and ``….Vh`` in half precision; the header's
``json`` says which. The words are ordinary embeddings beside it, ``<word>.pt``, known by their file names. Written
from the description of the file. The extension's `Delta` (2023-05-14) adds up to the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.families import UNET, by_names
from etude.core.files import Draft
from etude.core.ldm_names import inverse, table_of, translate, unet_table
from etude.core.model_files import of_part
from etude.core.tensors import write_tensors
from etude.core.weights import read_weights, refuse_infinite
from etude.formats.checkpoints import Frame
from etude.formats.deltas import common, differences, factors, product, words
from etude.formats.embedding import embedding_pt
from etude.formats.metadata import file_stem
from etude.formats.resembling import described

HEADER, VERSION = "json", "0.2.0"
WHOLE, FACTORS = "delta", "delta_factors"


def recognise(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether the header has the extension's list of entries."""
    return '"entries"' in metadata.get(HEADER, "") and any(key.startswith(UNET) for key in keys)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Differences in the common form; no words, which are in separate files."""
    tensors, metadata = read_weights(path)
    if not recognise(tensors, metadata):
        raise FormatError(path, "has no list of entries in its header", "give a .delta.safetensors")
    entries: Mapping[str, str] = json.loads(metadata[HEADER])["entries"]
    found, rest = {}, dict(tensors)
    for name, kind in entries.items():
        if kind == FACTORS:
            found[name.removeprefix(UNET)] = product(path, name, rest.pop(f"{name}.US"), rest.pop(f"{name}.Vh"))
        elif kind == WHOLE:
            found[name.removeprefix(UNET)] = rest.pop(name)
        else:
            fault = f"has the kind `{str(kind)[:40]}` for `{name[:80]}`, which is neither `{WHOLE}` nor `{FACTORS}`"
            raise FormatError(path, fault, "save it again with the extension that made it")
    if rest:
        fault = f"holds tensors that are in no entry of its header: {described(sorted(rest))}"
        raise FormatError(path, fault, "fetch it again, or save it again with the extension that made it")
    families = by_names(found)
    table = inverse(table_of(families[0].blocks)) if families else {}
    named = {translate(name, table): tensor for name, tensor in found.items()}
    if None in named:
        raise FormatError(path, "holds layers that no Stable Diffusion has", "give a delta of SD 1.x, 2.x or XL")
    return common({str(name): tensor for name, tensor in named.items()}, {}, delta=True)


def write(artifact: Artifact, draft: Draft, frame: Frame) -> list[Path]:
    """``<name>.delta.safetensors``, with factors if the fact ``compress`` is above 0, and a ``<word>.pt`` per word."""
    stem, table = file_stem(artifact.facts), unet_table(of_part(frame.tensors, "unet"))
    share, precision = artifact.facts.get("compress", 0.0), artifact.dtype
    tensors, entries = {}, {}
    for name, delta in differences(artifact, frame).items():
        ldm = f"{UNET}{translate(name, table)}"
        if share and delta.ndim == 2:
            us, vh = factors(delta, share)
            tensors[f"{ldm}.US"], tensors[f"{ldm}.Vh"] = us.to(torch.float16), vh.to(torch.float16)
            entries[ldm] = FACTORS
        else:
            tensors[ldm], entries[ldm] = delta.to(precision), WHOLE
    for name, tensor in tensors.items():
        refuse_infinite(stem, f"`{name}`", tensor)
    header = json.dumps({"meta": {"version": VERSION}, "entries": entries}, sort_keys=True)
    paths = [draft.path(f"{stem}.delta.safetensors")]
    write_tensors(paths[0], tensors, {HEADER: header})
    for word, rows in words(artifact).items():
        paths += embedding_pt.write(Artifact("textual_inversion", rows, {**artifact.facts, "name": word}), draft)
    return paths
