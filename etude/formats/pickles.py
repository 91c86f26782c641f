"""Pickled files (.pt, .bin, .ckpt): read without running their code, written so that careful programs read them."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from etude.core.errors import FormatError
from etude.core.files import atomic_path, read_tensors

ACTION = "fetch it again from a source you trust, as .safetensors if there is one"
BARE = "a bare tensor"  # the one key of a file that holds a tensor with nothing around it
_GARBAGE = (IndexError, KeyError, TypeError, AttributeError)  # what unpickling some other kind of file ends in
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold: files of equal content have equal bytes


def read_pickle(path: Path | str) -> Mapping[str, Any]:
    """The dictionary in a file of ``torch.save``, or in its ``state_dict``; only tensors and plain values are made."""
    return _dictionary(path, _open(path))


def read_either(path: Path | str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a ``.safetensors`` file, or the tensors of a pickled dictionary, which has no metadata.

    Programs of 2022 and 2023 wrote the same keys into either (kohya's ``save_model_as``, diffusers' ``.bin``).
    """
    if Path(path).suffix == ".safetensors":
        return read_tensors(path)
    return {name: tensor for name, tensor in read_pickle(path).items() if isinstance(tensor, torch.Tensor)}, {}


def read_tensor(path: Path | str) -> torch.Tensor:
    """The tensor in a file that holds nothing else."""
    data = _open(path)
    if not isinstance(data, torch.Tensor):
        raise FormatError(path, f"holds a {type(data).__name__}, not a tensor", ACTION)
    return data.detach()


def pickle_keys(path: Path | str) -> list[str]:
    """The keys of the dictionary in a file, numbers as text; of a tensor with nothing around it BARE alone."""
    data = _open(path)
    return [BARE] if isinstance(data, torch.Tensor) else [str(key) for key in _dictionary(path, data)]


def _dictionary(path: Path | str, data: object) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise FormatError(path, f"holds a {type(data).__name__}, not a dictionary", ACTION)
    while isinstance(inner := data.get("state_dict"), Mapping):  # a checkpoint of pytorch-lightning
        data = inner
    return data


def _open(path: Path | str) -> Any:
    try:
        # Embeddings of the first code (2022) hold a ParameterDict; building one runs nothing of the file.
        with torch.serialization.safe_globals([torch.nn.ParameterDict, set]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FormatError(path, "is missing", "check the path") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, *_GARBAGE) as error:
        fault = "is not a file that can be opened safely: it is damaged, none of weights, or holds what could run code"
        raise FormatError(path, fault, ACTION) from error


def write_pickle(path: Path | str, data: Mapping[str, Any] | torch.Tensor) -> None:
    """Like ``torch.save``, with fixed bytes and without the dot-files (``.format_version``, …) of newer torch.

    A1111's safe unpickler knows only ``<top>/data/<n>``, ``version``, ``byteorder`` and ``data.pkl`` and refuses a file
    with others. Tensors must be plain (no Parameter, no gradient) and own their storage, or it is saved whole.
    """
    buffer = io.BytesIO()
    torch.save(data, buffer)
    with (
        zipfile.ZipFile(buffer) as source,
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as target,
    ):
        for name in source.namelist():
            inner = name.split("/")[1:]
            if not any(part.startswith(".") for part in inner):
                entry = zipfile.ZipInfo("/".join(["archive", *inner]), EPOCH)
                target.writestr(entry, source.read(name))
