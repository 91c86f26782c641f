"""Textual inversion as rows of a text encoder's table: the form that all embedding formats convert to and from."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from etude.core.errors import FormatError
from etude.core.families import FAMILIES


def keys_of(parts: Collection[str]) -> dict[str, str]:
    """Part → key in other programs' files, for the family with these text encoders; empty if its files have no keys."""
    for keys in _families():
        if set(keys) == set(parts):
            return keys
    return {}


# Keys of a single text encoder's rows, which are no words: those of kohya, OneTrainer, ComfyUI for SD 1 and SD 2, and
# diffusers' advanced training scripts.
LONE = ("emb_params", "emp_params", "clip_l", "clip_h", "text_encoders_0")
NUMBERED = "text_encoders_{}"  # the keys of these scripts for several text encoders


def rows(path: Path | str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as [n, d], a single vector as [1, d]; raises FormatError for other shapes or unequal n."""
    for tensor in tensors.values():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = str(tensor.dtype) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise FormatError(path, f"holds a {kind} in place of rows of numbers", "give an embedding")
    result = {name: tensor[None] if tensor.ndim == 1 else tensor for name, tensor in tensors.items()}
    shapes = {name: list(tensor.shape) for name, tensor in result.items()}
    whole = all(len(shape) == 2 and shape[0] and shape[1] for shape in shapes.values())
    if not whole or len({shape[0] for shape in shapes.values()}) != 1:
        listed = ", ".join(f"`{name}` {shape}" for name, shape in sorted(shapes.items()))
        raise FormatError(path, f"holds {listed} where rows of one embedding should be", "give an embedding")
    return result


def parts_of(keys: Collection[str]) -> dict[str, str]:
    """Key → part, for the keys of a family with several text encoders, such as SDXL's ``clip_l`` and ``clip_g``.

    Also for a single key, of one encoder's rows. Empty for other keys.
    """
    if len(keys) == 1 and set(keys) <= set(LONE):
        return dict.fromkeys(keys, "text_encoder")
    for names in _key_sets():
        if set(names.values()) == set(keys):
            return {key: part for part, key in names.items()}
    return {}


def missing_keys(keys: Collection[str]) -> list[str]:
    """The missing keys of a file that has only some keys of a set: ``clip_l``, if it has only ``clip_g``."""
    for names in _key_sets():
        if keys and set(keys) < set(names.values()):
            return sorted(set(names.values()) - set(keys))
    return []


def one_vector(path: Path | str, data: Mapping[Any, Any]) -> Any:
    """The only value in ``string_to_param`` of A1111's dictionary; raises FormatError for several, or other tensors."""
    vectors = data.get("string_to_param")
    if not isinstance(vectors, Mapping):
        raise unknown(path, [str(key) for key in data])
    if len(vectors) != 1:
        some = ", ".join(f"`{str(word)[:40]}`" for word in list(vectors)[:3]) or "none"
        fault = f"holds an embedding of another form: {len(vectors)} words ({some}) in place of one"
        raise FormatError(path, fault, "save each word in a file of its own")
    for key, value in data.items():
        if key not in ("string_to_param", "string_to_token") and isinstance(value, Tensor | Mapping):
            fault = f"holds `{str(key)[:40]}` beside `string_to_param`, which Étude would not keep"
            raise FormatError(path, fault, "if this is an embedding of SD 1.x or 2.x, save it again without that key")
    return next(iter(vectors.values()))


def labels(data: Mapping[Any, Any]) -> dict[str, Any]:
    """The facts name and step from A1111's dictionary, if it has them."""
    facts = {"name": data["name"]} if data.get("name") is not None else {}
    return facts | ({"step": data["step"]} if isinstance(data.get("step"), int) else {})


def _key_sets() -> Iterator[dict[str, str]]:
    """Part → key: of each family's files, and of those that diffusers' training scripts write for it."""
    for known in _families():
        yield known
        yield {part: NUMBERED.format(number) for number, part in enumerate(known)}


def _families() -> Iterator[dict[str, str]]:
    """Part → key for each family whose embedding files have keys."""
    for family in FAMILIES.values():
        keys = {encoder.part: encoder.embedding for encoder in family.text_encoders}
        if all(keys.values()):
            yield keys


def unknown(path: Path | str, keys: Collection[str]) -> FormatError:
    """The error for a file that is no embedding of this format."""
    some = ", ".join(f"`{key}`" for key in sorted(keys)[:5]) or "none"
    return FormatError(path, f"is no embedding of this format (keys: {some})", "give an embedding")
