"""Single-file checkpoints (``.safetensors``, ``.ckpt``) in the LDM layout: names and shapes, and the tensors of a part.

Names are read from the header only. Pickles are opened with ``weights_only=True``, so no code in a file is ever run.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.core.errors import BaseError, FormatError
from etude.core.families import FAMILIES, UNET, VAE
from etude.core.files import read_header

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
    if Path(path).suffix == ".safetensors":
        header = _header(path)
        return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    return {name: tuple(tensor.shape) for name, tensor in _unpickle(path, "meta").items()}


def read_labels(path: Path | str) -> dict[str, str]:
    """The metadata of a safetensors file; empty for pickles, which have none."""
    return dict(_header(path).get("__metadata__", {})) if Path(path).suffix == ".safetensors" else {}


def read_parts(path: Path | str, parts: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """The tensors of parts (unet, vae, text) under their names in the file, memory-mapped where possible."""
    refuse_pointer(path)
    if Path(path).suffix == ".safetensors":
        return {part: _map_part(path, part) for part in parts}
    tensors = _unpickle(path, "cpu")
    found = {}
    for part in parts:
        prefixes = _prefixes(part)
        found[part] = {name: tensor for name, tensor in tensors.items() if name.startswith(prefixes)}
    return found


def _prefixes(part: str) -> tuple[str, ...]:
    """The prefixes of a part's tensors; each family has its own prefix for text encoders."""
    texts = tuple(dict.fromkeys(family.texts for family in FAMILIES.values()))
    return {"unet": (UNET,), "vae": (VAE,), "text": texts}[part]


def _map_part(path: Path | str, part: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    prefixes = _prefixes(part)
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in _header(path) if name.startswith(prefixes)}
    except SafetensorError as error:
        raise BaseError(path, f"is damaged ({error})", "fetch it again") from error


def _header(path: Path | str) -> dict[str, Any]:
    try:
        return read_header(path)
    except FormatError as error:
        raise BaseError(path, error.fault, "fetch it again") from error


def _unpickle(path: Path | str, device: str) -> dict[str, Tensor]:
    """The state dict of a ``.ckpt``, on device cpu, or on meta if only shapes are needed."""
    import torch

    try:
        mapped = device == "cpu" and zipfile.is_zipfile(path)  # older files (before torch 1.6) cannot be mapped
        data = torch.load(path, map_location=device, weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        fault = "holds more than weights, so it could run code, or is no checkpoint"
        raise BaseError(path, fault, "convert it to .safetensors where you trust it, and name that file") from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise BaseError(path, f"is damaged ({error})", "fetch it again") from error
    while isinstance(data, dict) and isinstance(data.get("state_dict"), dict):
        data = data["state_dict"]
    if not isinstance(data, dict):
        raise BaseError(path, "holds no dictionary of tensors", "name a Stable Diffusion checkpoint")
    return {name: value for name, value in data.items() if isinstance(name, str) and isinstance(value, torch.Tensor)}
