"""Single-file checkpoints (``.safetensors``, ``.ckpt``) in the LDM layout: names and shapes, and the tensors of a part.

Names are read from the header only. Pickles are opened with ``weights_only=True``, so no code in a file is ever run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.core.errors import BaseError, FormatError
from etude.core.families import FAMILIES, UNET, VAE
from etude.core.tensors import read_header

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".safetensors", ".ckpt", ".pt")

Shapes = Mapping[str, tuple[int, ...]]


def is_pointer(path: Path | str) -> bool:
    """Whether a file is a Git LFS pointer: the placeholder of a file that was not fetched."""
    with open(path, "rb") as file:
        return file.read(40).startswith(b"version https://git-lfs.github.com/spec")


def refuse_pointer(path: Path | str) -> None:
    """Raise BaseError if the file is a Git LFS pointer."""
    if is_pointer(path):
        raise BaseError(path, "is a Git LFS pointer, not the file itself", "run `git lfs pull` where it came from")


def read_shapes(path: Path | str) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor, without reading any."""
    refuse_pointer(path)
    from etude.core import model_files

    try:
        return model_files.read_shapes(Path(path))
    except FormatError as error:
        raise BaseError(path, error.fault, error.action) from error


def read_labels(path: Path | str) -> dict[str, str]:
    """The metadata of a safetensors file; empty for pickles, which have none."""
    return dict(_header(path).get("__metadata__") or {}) if Path(path).suffix.lower() == ".safetensors" else {}


def read_parts(path: Path | str, parts: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """The tensors of parts (unet, vae, text) under their names in the file, memory-mapped where possible."""
    from etude.core.pickles import read_either

    refuse_pointer(path)
    prefixes = {part: _prefixes(part) for part in parts}
    needed = tuple(prefix for each in prefixes.values() for prefix in each)
    try:
        tensors, _ = read_either(path, lambda name: name.startswith(needed))
    except FormatError as error:
        raise BaseError(path, error.fault, error.action) from error
    tensors_by_part = {}
    for part, own in prefixes.items():
        tensors_by_part[part] = {name: tensor for name, tensor in tensors.items() if name.startswith(own)}
    return tensors_by_part


def _prefixes(part: str) -> tuple[str, ...]:
    """The prefixes of a part's tensors; each family has its own prefix for text encoders."""
    texts = tuple(dict.fromkeys(family.texts for family in FAMILIES.values()))
    return {"unet": (UNET,), "vae": (VAE,), "text": texts}[part]


def _header(path: Path | str) -> dict[str, Any]:
    try:
        return read_header(path)
    except FormatError as error:
        raise BaseError(path, error.fault, "fetch it again") from error
