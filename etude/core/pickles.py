"""Pickled files (.pt, .bin, .ckpt): reading without running their code, writing so that strict programs accept them."""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etude.core.errors import FormatError
from etude.core.files import atomic_path
from etude.core.magic import what_instead
from etude.core.weights import COUNTERS, checked, nan_is_allowed, read_weights

ACTION = "fetch it again from a source you trust, as .safetensors if there is one"
MAPPED = 1 << 28  # bytes of a file above which it is memory-mapped
BARE = "a bare tensor"  # the only key of a file that contains just one tensor
DEEPEST = 32  # levels of nested containers; files of known programs have five
EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed time (the earliest of the zip format), so that equal content has equal bytes
NUMBERS = (".alpha", ".scalar")  # values of LoRAs that some programs pickle as plain numbers
Wanted = Callable[[str], bool]


def read_pickle(path: Path | str, wanted: Wanted = lambda _: True) -> dict[Any, Any]:
    """The dictionary in a file of ``torch.save``, or in its ``state_dict``; only keys that are ``wanted``.

    It contains only plain containers, plain values and checked tensors. Raises FormatError.
    """
    data = open_dictionary(path)
    plain = _Plain(path)
    return {key: plain.make(str(key), value) for key, value in data.items() if wanted(str(key))}


def read_either(path: Path | str, wanted: Wanted = lambda _: True) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The checked tensors and metadata of a ``.safetensors`` file, or the tensors of a pickled dictionary.

    Programs of 2022 and 2023 wrote the same keys into either (kohya's ``save_model_as``, diffusers' ``.bin``).
    """
    if Path(path).suffix.lower() == ".safetensors":
        return read_weights(path, wanted)
    tensors = {}
    for name, value in read_pickle(path, wanted).items():
        if isinstance(value, int | float) and str(name).endswith(NUMBERS):
            value = torch.tensor(_plain_number(path, str(name), value))
        if isinstance(value, Tensor):
            tensors[str(name)] = value
        elif not (isinstance(value, int | float) and str(name).rpartition(".")[2] in COUNTERS):
            fault = f"`{name}` holds a {type(value).__name__} in place of a tensor"
            raise FormatError(path, fault, ACTION)
    return tensors, {}


def _plain_number(path: Path | str, name: str, value: float) -> float:
    allowed = isinstance(value, float) and nan_is_allowed()
    if not allowed and not abs(value) <= sys.float_info.max:  # also NaN
        raise FormatError(path, f"`{name}` holds {str(value)[:20]}, which is no finite number", ACTION)
    return float(value)


def read_tensor(path: Path | str) -> Tensor:
    """The tensor in a file that contains nothing else."""
    data = _open(path)
    if not isinstance(data, Tensor):
        raise FormatError(path, f"holds a {type(data).__name__}, not a tensor", ACTION)
    return checked(path, "tensor", data.detach())


def pickle_keys(path: Path | str) -> list[str]:
    """The keys of the dictionary in a file, numbers as text; [BARE] if the file contains just one tensor."""
    data = _open(path, "meta")
    return [BARE] if isinstance(data, Tensor) else [str(key) for key in _innermost(path, data)]


def open_dictionary(path: Path | str, device: str = "cpu") -> Mapping[Any, Any]:
    """The dictionary in a file, unchecked, on a device (meta: only shapes are read). Raises FormatError."""
    return _innermost(path, _open(path, device))


def _innermost(path: Path | str, data: object) -> Mapping[Any, Any]:
    """``data``, or the dictionary in its ``state_dict`` if it has one (checkpoints of pytorch-lightning)."""
    for _ in range(DEEPEST):
        if not isinstance(data, Mapping):
            raise FormatError(path, f"holds a {type(data).__name__}, not a dictionary", ACTION)
        if not isinstance(inner := data.get("state_dict"), Mapping):
            return data
        data = inner
    raise FormatError(path, f"holds a state_dict in itself, or more than {DEEPEST} inside each other", ACTION)


@dataclass(frozen=True)
class _Plain:
    """Converts the content of a pickle to plain containers, and checks its tensors; each container only once."""

    path: Path | str
    made: dict[int, Any] = field(default_factory=dict)
    around: list[int] = field(default_factory=list)  # the containers around the present one

    def make(self, name: str, value: Any) -> Any:
        """``value`` in plain form; ``name`` is its name in errors."""
        if isinstance(value, Tensor):
            return checked(self.path, name, value.detach())
        if isinstance(value, torch.nn.ParameterDict):
            value = value._parameters  # its own methods need fields that old files lack
        if not isinstance(value, Mapping | list | tuple):
            return value
        if id(value) in self.around or len(self.around) == DEEPEST:
            raise FormatError(
                self.path, f"`{name[:80]}` holds itself, or more than {DEEPEST} containers inside each other", ACTION
            )
        if id(value) not in self.made:
            self.around.append(id(value))
            self.made[id(value)] = self._contents(name, value)
            self.around.pop()
        return self.made[id(value)]

    def _contents(self, name: str, value: Mapping[Any, Any] | list[Any] | tuple[Any, ...]) -> Any:
        if isinstance(value, Mapping):
            return {key: self.make(f"{name}.{key}", each) for key, each in value.items()}
        each = [self.make(f"{name}.{number}", each) for number, each in enumerate(value)]
        return each if isinstance(value, list) else tuple(each)


def _open(path: Path | str, device: str = "cpu") -> Any:
    if fault := _fault(Path(path)):
        raise FormatError(path, fault, ACTION)
    if instead := what_instead(path, "pickle"):
        raise FormatError(path, *instead)
    try:
        # Mapped files need no memory, but torch does not compare sizes in them; files from before torch 1.6 are not
        # archives, and cannot be mapped.
        mapped = device == "cpu" and Path(path).stat().st_size > MAPPED and zipfile.is_zipfile(path)
        # embeddings of the first code (2022) contain a ParameterDict; creating one runs no code of the file
        with torch.serialization.safe_globals([torch.nn.ParameterDict, set]):
            data = torch.load(path, map_location=device, weights_only=True, mmap=mapped)
        if mapped and _sizes(data) - _sizes_in_archive(path):
            raise pickle.UnpicklingError("mapped, a tensor larger than its entry would go on into the next one")
        return data
    except pickle.UnpicklingError as error:
        fault = "is not a file that can be opened safely: it is damaged, holds no weights, or could run code"
        raise FormatError(path, fault, ACTION) from error
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:80]
        fault = f"is damaged, or not a file of weights ({type(error).__name__} {reason})"
        raise FormatError(path, fault, ACTION) from error


def _sizes(data: object) -> Counter[int]:
    """How many storages of tensors there are of each size in bytes, each storage once."""
    sizes, waiting, known = Counter[int](), [data], set[int]()
    storages = set[int]()
    while waiting:
        value = waiting.pop()
        if id(value) in known:
            continue
        known.add(id(value))
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta:
            storage = value.untyped_storage()
            if storage.nbytes() and storage.data_ptr() not in storages:
                storages.add(storage.data_ptr())
                sizes[storage.nbytes()] += 1
    return sizes


def _sizes_in_archive(path: Path | str) -> Counter[int]:
    """The sizes of tensors' entries; raises BadZipFile if the table of the archive and an entry's own head differ."""
    with zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if "/data/" in entry.filename]
        for entry in entries:
            archive.open(entry).close()
        return Counter(entry.file_size for entry in entries)


def _fault(path: Path) -> str:
    """Why a file must not be opened; empty if it may. torch never compresses: a compressed file may be a zip bomb."""
    if path.is_dir():
        return "is a folder, not a file"
    if not path.exists():
        return "is missing"
    if not path.is_file():
        return "is a pipe or a device, not a file"
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = [entry.file_size for entry in archive.infolist()]
            return "is a packed archive" if sum(sizes) > path.stat().st_size else ""
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return ""


def write_pickle(path: Path | str, data: Mapping[Any, Any] | Tensor) -> None:
    """Like ``torch.save``, with fixed bytes and without the dot-files (``.format_version``, …) of newer torch.

    A1111's safe unpickler knows only ``<top>/data/<n>``, ``version``, ``byteorder`` and ``data.pkl`` and refuses a file
    with other entries. Tensors must be plain (no Parameter, no gradient) and have their own storage: of a shared one,
    all would be saved.
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
