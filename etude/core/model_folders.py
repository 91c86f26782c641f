"""Files of models, before any weight is read: which hold the weights, their shapes, and JSON beside them.

Nothing here imports torch, except to read the shapes in a pickle.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from etude.core.errors import BaseError
from etude.core.files import beside
from etude.core.magic import is_pointer, what_instead
from etude.core.tensors import read_header

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")


def paths_in(folder: Path) -> list[str]:
    """The files of a model's folder and of its parts, by their names in it. Links to folders are followed."""
    # `rglob` does not follow links. A model has two levels: with this limit, a link to a parent folder makes no loop.
    files = (file for pattern in ("*", "*/*") for file in sorted(folder.glob(pattern)) if file.is_file())
    return [file.relative_to(folder).as_posix() for file in files]


def weight_files(folder: Path) -> list[Path]:
    """The files from which a model's weights are loaded, their index first if there is one; empty if there are none.

    safetensors are preferred to pickles, and full precision to half, as in diffusers and transformers. Raises BaseError
    for a damaged index.
    """
    for suffix in ("safetensors", "bin"):
        for infix in ("", ".fp16"):
            for stem in STEMS:
                if (file := folder / f"{stem}{infix}.{suffix}").exists():
                    return [file]
                if (index := folder / f"{stem}.{suffix}.index{infix}.json").exists():
                    return [index, *_shards(index)]
    return []


def weight_paths(folder: Path) -> list[Path]:
    """`weight_files` without the index."""
    return [file for file in weight_files(folder) if file.suffix != ".json"]


def _shards(index: Path) -> list[Path]:
    places = read_config(index).get("weight_map")
    if not isinstance(places, dict):
        raise BaseError(index, "has no `weight_map`", "fetch it again")
    return [beside(index, name) for name in sorted(set(map(str, places.values())))]


def read_config(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file of a model; raises BaseError."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BaseError(path, "is missing", "fetch the whole model again") from None
    except OSError as error:  # a folder, or without permission to read it
        raise BaseError(path, f"cannot be read ({error.strerror})", "fetch the whole model again") from error
    except (ValueError, RecursionError) as error:  # not text, not JSON, too deep, or a number of 5,000 digits
        fault, action = what_instead(path, "JSON") or (f"is not JSON ({error})", "fetch the model again")
        raise BaseError(path, fault, action) from error
    if not isinstance(config, dict):
        raise BaseError(path, "holds no JSON object", "fetch the model again")
    return config


def read_shapes(path: Path | str) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor in a file of weights. No tensor is read, and torch is needed for pickles alone."""
    if Path(path).suffix.lower() == ".safetensors":
        return {name: tuple(entry["shape"]) for name, entry in read_header(path).items() if name != "__metadata__"}
    from torch import Tensor

    from etude.core.pickles import open_dictionary

    data = open_dictionary(path, "meta")
    return {str(name): tuple(tensor.shape) for name, tensor in data.items() if isinstance(tensor, Tensor)}


def refuse_pointer(path: Path | str) -> None:
    """Raise BaseError if the file is a Git LFS pointer: the placeholder of a file that was not fetched."""
    if is_pointer(path):
        raise BaseError(
            path, "is a Git LFS pointer, not the file itself", "run `git lfs pull` in the repository that it comes from"
        )
