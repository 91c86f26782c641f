"""Textual inversion as rows of a text encoder's table: what every embedding format is turned into and made from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor

from etude.core.errors import FormatError

CLIP_NAMES = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}  # SDXL's two encoders in others' files


def rows(path: Path | str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with one vector written as [1, d]; raises FormatError for other shapes or unequal numbers."""
    result = {name: tensor[None] if tensor.ndim == 1 else tensor for name, tensor in tensors.items()}
    shapes = {name: list(tensor.shape) for name, tensor in result.items()}
    if any(len(shape) != 2 for shape in shapes.values()) or len({shape[0] for shape in shapes.values()}) != 1:
        told = ", ".join(f"`{name}` {shape}" for name, shape in sorted(shapes.items()))
        raise FormatError(path, f"holds {told} where rows of one embedding should be", "name another file")
    return result


def clip_rows(path: Path | str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rows of both encoders of SDXL from ``clip_l`` and ``clip_g``."""
    return rows(path, {part: tensors[name] for part, name in CLIP_NAMES.items()})


def is_clip_pair(keys: Collection[str]) -> bool:
    """Whether the keys are those of an SDXL embedding."""
    return set(keys) == set(CLIP_NAMES.values())


def unknown(path: Path | str, keys: Collection[str]) -> FormatError:
    """The error for a file that is no embedding of this format."""
    some = ", ".join(f"`{key}`" for key in sorted(keys)[:5]) or "none"
    return FormatError(path, f"is no embedding of this format (keys: {some})", "name another file")
