"""Custom Diffusion's own file ``delta.bin``: whole weights of the cross-attention, and the rows of the new words.

``{"unet": {<parameter>: Tensor}, "modifier_token": {<word>: Tensor[d]}}``; for SDXL, a word has a list of two rows.
In ``delta_compressed.bin``, ``{"u": U·S, "v": Vᵀ}`` of the difference replaces each weight of keys and values; the
other weights are whole. Written from the description of the files. On small bases of SD 1.x, 2.x and XL Adobe's
`load_model` (2026-05-24) predicts the same from ``delta.bin``, and within 1e-6 from a compressed file with all singular
values.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.families import text_parts, text_rows
from etude.core.files import Draft
from etude.core.pickles import read_pickle, write_pickle
from etude.core.weights import in_precision
from etude.formats.checkpoints import Frame
from etude.formats.deltas import common, differences, factors, product, wholes, words
from etude.formats.resembling import described

KEYS = {"unet", "modifier_token"}
COMPRESSED = (".to_k.weight", ".to_v.weight")


def recognise(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether there are weights of a UNet and words beside them."""
    return "unet" in keys and "modifier_token" in keys


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Whole weights, and differences where a compressed file has factors; the fact ``words``."""
    data = read_pickle(path)
    if not recognise(data, {}) or not all(isinstance(data[key], Mapping) for key in KEYS):
        raise FormatError(
            path, "does not hold the dictionaries `unet` and `modifier_token`", "give a delta file of Custom Diffusion"
        )
    if others := sorted(str(key) for key in data.keys() - KEYS):
        fault = f"also holds {described(others)}, which would be lost: only `unet` and `modifier_token` are read"
        raise FormatError(path, fault, "save it again without these keys (`save_text_encoder=False`)")
    weights: Mapping[str, Any] = data["unet"]
    factored = {name: value for name, value in weights.items() if isinstance(value, Mapping)}
    deltas = {name: product(path, name, value["u"], value["v"]) for name, value in factored.items()}
    rows = {word: _rows(path, word, given) for word, given in data["modifier_token"].items()}
    tensors, facts = common(deltas, rows, delta=True)
    whole, _ = common({name: value for name, value in weights.items() if name not in factored}, {}, delta=False)
    return whole | tensors, facts


def _rows(path: Path, word: str, given: Tensor | list[Tensor]) -> dict[str, Tensor]:
    """The rows of a word by text encoder; raises FormatError for too many rows, or for a tensor that is no row."""
    rows = given if isinstance(given, list) else [given]
    for row in rows:
        if not isinstance(row, Tensor) or not row.numel() or row.shape not in ((row.numel(),), (1, row.numel())):
            found = list(row.shape) if isinstance(row, Tensor) else f"a {type(row).__name__}"
            fault = f"has {found} for the word `{word[:40]}`, where a row of a text encoder's table should be"
            raise FormatError(path, fault, "fetch or make it again")
    if len(rows) > len(text_parts()):
        fault = f"has {len(rows)} rows for the word `{word}`, more than any family has text encoders"
        raise FormatError(path, fault, "fetch or make it again")
    return dict(zip(text_parts(), rows, strict=False))  # SD 1.x and 2.x have only the first


def write(artifact: Artifact, draft: Draft, frame: Frame) -> list[Path]:
    """``delta.bin``, and ``delta_compressed.bin`` when the fact ``compress`` is above 0."""
    unet: dict[str, Any] = {name: tensor.clone() for name, tensor in wholes(artifact, frame).items()}
    tokens: dict[str, Any] = {}
    for word, own in words(artifact).items():
        rows = [row[0].clone() for row in text_rows(own)]
        tokens[word] = rows if len(rows) > 1 else rows[0]
    paths = [draft.path("delta.bin")]
    write_pickle(paths[0], {"unet": unet, "modifier_token": tokens})
    if share := artifact.facts.get("compress", 0.0):
        precision = artifact.dtype
        for name, delta in differences(artifact, frame).items():
            if name.endswith(COMPRESSED):
                u, v = factors(delta, share)
                u, v = (in_precision(paths[0].name, name, factor, precision) for factor in (u, v))
                unet[name] = {"u": u, "v": v}
        paths.append(draft.path("delta_compressed.bin"))
        write_pickle(paths[1], {"unet": unet, "modifier_token": tokens})
    return paths
