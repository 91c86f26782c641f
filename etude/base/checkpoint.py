"""Single-file checkpoints (``.safetensors``, ``.ckpt``) in the LDM layout: names and shapes, and the tensors of a part.

Names are read from the header only. Pickles are opened with ``weights_only=True``, so no code in a file is ever run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from etude.core import model_folders, tensors
from etude.core.errors import BaseError, FormatError
from etude.core.families import FAMILIES, UNET, VAE

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".safetensors", ".ckpt", ".pt")

Shapes = Mapping[str, tuple[int, ...]]


def read_shapes(path: Path | str) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor, without reading any."""
    try:
        return model_folders.read_shapes(path)
    except FormatError as error:
        raise BaseError(path, error.fault, error.action) from error


def read_labels(path: Path | str) -> dict[str, str]:
    """The metadata of a safetensors file; empty for pickles, which have none."""
    if Path(path).suffix.lower() != ".safetensors":
        return {}
    try:
        return tensors.read_metadata(path)
    except FormatError as error:
        raise BaseError(path, error.fault, "fetch it again") from error


def read_part(path: Path | str, part: str) -> dict[str, Tensor]:
    """The tensors of a part (unet, vae or text) under their names in the file, memory-mapped where possible."""
    from etude.core.pickles import read_either

    prefixes = _prefixes(part)
    try:
        return read_either(path, lambda name: name.startswith(prefixes))[0]
    except FormatError as error:
        raise BaseError(path, error.fault, error.action) from error


def _prefixes(part: str) -> tuple[str, ...]:
    """The prefixes of a part's tensors; each family has its own prefix for text encoders."""
    texts = tuple(dict.fromkeys(family.texts for family in FAMILIES.values()))
    return {"unet": (UNET,), "vae": (VAE,), "text": texts}[part]
