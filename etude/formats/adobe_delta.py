"""Custom Diffusion's own file ``delta.bin``: whole weights of the cross-attention, and the rows of the new words.

``{"unet": {<parameter>: Tensor}, "modifier_token": {<word>: Tensor[d]}}``; SDXL's second rows stand in
``modifier_token_2``, which is ours alone. ``delta_compressed.bin`` has ``{"u": U·S, "v": Vᵀ}`` of the difference in
the place of each weight. Written from the description of the files.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from etude.artifact import Artifact
from etude.errors import FormatError
from etude.formats.checkpoints import Frame
from etude.formats.deltas import common, differences, factors, wholes, words
from etude.formats.pickles import read_pickle, write_pickle

TOKENS = {"text_encoder": "modifier_token", "text_encoder_2": "modifier_token_2"}


def recognise(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether there are weights of a UNet and words beside them."""
    return "unet" in keys and "modifier_token" in keys


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Whole weights, or differences of a compressed file; the fact ``words``."""
    data = read_pickle(path)
    if not recognise(data, {}) or not all(isinstance(data[key], Mapping) for key in ("unet", "modifier_token")):
        raise FormatError(path, "holds no `unet` and `modifier_token`", "name a delta file of Custom Diffusion")
    weights: Mapping[str, Any] = data["unet"]
    compressed = any(isinstance(value, Mapping) for value in weights.values())
    if compressed:
        mixed = [name for name, value in weights.items() if not isinstance(value, Mapping)]
        if mixed:
            raise FormatError(path, f"holds `{mixed[0]}` whole among compressed ones", "name the uncompressed file")
        weights = {name: value["u"].float() @ value["v"].float() for name, value in weights.items()}
    rows = {
        word: {part: data[key][word] for part, key in TOKENS.items() if word in data.get(key, {})}
        for word in data["modifier_token"]
    }
    return common(weights, rows, delta=compressed)


def write(artifact: Artifact, folder: Path, frame: Frame) -> list[Path]:
    """``delta.bin``, and ``delta_compressed.bin`` when the fact ``compress`` is above 0."""
    rows: dict[str, dict[str, Tensor]] = {}
    for word, own in words(artifact).items():
        for part, row in own.items():
            rows.setdefault(TOKENS[part], {})[word] = row[0].clone()
    paths = [folder / "delta.bin"]
    write_pickle(paths[0], {"unet": {n: t.clone() for n, t in wholes(artifact, frame).items()}, **rows})
    if share := artifact.facts.get("compress", 0.0):
        unet: dict[str, Any] = {}
        precision = next(iter(artifact.tensors.values())).dtype
        for name, delta in differences(artifact, frame).items():
            if delta.ndim != 2:
                continue  # a bias has no factors; what `crossattn` learns of it is in the whole file alone
            u, v = factors(delta, share)
            unet[name] = {"u": u.to(precision), "v": v.to(precision)}
        paths.append(folder / "delta_compressed.bin")
        write_pickle(paths[1], {"unet": unet, **rows})
    return paths
