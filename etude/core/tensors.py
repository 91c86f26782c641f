"""Reading and writing safetensors files. Equal tensors give equal bytes."""

from __future__ import annotations

import json
import os
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.core.errors import FormatError, InputError
from etude.core.files import atomic_path
from etude.core.magic import LONGEST_HEADER, is_safetensors, what_instead

if TYPE_CHECKING:
    from torch import Tensor

MAPPED = 1 << 20  # bytes: smaller files are read at once, as to map one into memory takes five times as long
_AGAIN = "fetch or make it again"


def _read_header(path: Path | str) -> tuple[int, dict[str, Any]]:
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise FormatError(path, "is a pipe or a device, not a file", "give a file")
        with open(path, "rb") as file:
            head = file.read(9)
            if not is_safetensors(head) and (instead := what_instead(path, "safetensors")):
                raise FormatError(path, *instead)
            file.seek(8)
            length = struct.unpack("<Q", head[:8])[0] if len(head) >= 8 else 0
            if not 2 <= length <= LONGEST_HEADER:
                raise FormatError(path, "is not a safetensors file", "check how it was made or fetched")
            text = file.read(length)
            if len(text) < length:
                raise FormatError(path, "has a damaged safetensors header: the file ends within it", _AGAIN)
            header, size = json.loads(text), os.fstat(file.fileno()).st_size - 8 - length
    except FileNotFoundError:
        raise InputError(path, "is missing", "run `dvc repro` so that the stage that makes it runs first") from None
    except IsADirectoryError:
        raise FormatError(path, "is a folder, not a safetensors file", "give the file in it") from None
    except (ValueError, RecursionError) as error:  # not JSON, not text, too deep, or a number of 5,000 digits
        raise FormatError(path, "has a damaged safetensors header", _AGAIN) from error
    if fault := _header_fault(header):
        raise FormatError(path, f"has a damaged safetensors header: {fault}", _AGAIN)
    ends = [entry["data_offsets"][-1] for name, entry in header.items() if name != "__metadata__"]
    if ends and size < max(ends):
        raise FormatError(path, f"is damaged: its tensors need {max(ends):,} bytes, but it holds {size:,}", _AGAIN)
    return length, header


def _header_fault(header: Any) -> str:
    """What in a header does not follow the safetensors format; empty if everything does."""
    if not isinstance(header, dict):
        return "it is no JSON object"
    for name, entry in header.items():
        if name == "__metadata__":
            entry = {} if entry is None else entry
            if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
                return "its metadata is no table of texts"
        elif not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
            return f"`{name[:80]}` has no dtype"
        elif not _are_sizes(entry.get("shape")) or not _are_sizes(entry.get("data_offsets"), 2):
            return f"`{name[:80]}` has no valid shape or data_offsets"
    return ""


def _are_sizes(values: Any, count: int | None = None) -> bool:
    """Whether ``values`` is a list of sizes, with this ``count`` (None: any)."""
    if not isinstance(values, list) or count not in (None, len(values)):
        return False
    return all(type(value) is int and 0 <= value < 2**63 for value in values)


def read_header(path: Path | str) -> dict[str, Any]:
    """The header of a safetensors file, without its data: tensor name → dtype and shape, ``__metadata__`` → strings."""
    return _read_header(path)[1]


def read_layout(path: Path | str) -> tuple[int, dict[str, Any]]:
    """Where the data of the tensors begin in a safetensors file, in bytes; and its header, as by `read_header`."""
    length, header = _read_header(path)
    return 8 + length, header


def _metadata_in(data: bytes) -> dict[str, str]:
    """The ``__metadata__`` of a whole safetensors file whose header has no fault."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]).get("__metadata__") or {}


def read_metadata(path: Path | str) -> dict[str, str]:
    """The ``__metadata__`` of a safetensors file, read from its header alone."""
    return dict(read_header(path).get("__metadata__") or {})


def unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, each with its own memory: safetensors refuses shared memory, which tensors of a pickle may have."""
    known, found = set[int](), {}
    for name, tensor in tensors.items():
        place = tensor.data_ptr()  # not the storage's: the tensors of a mapped file share its storage
        found[name] = tensor.clone() if place in known else tensor
        known.add(place)
    return found


def write_tensors(
    path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, durable: bool = True
) -> None:
    """Write safetensors by `atomic_path`, with sorted header keys: equal tensors and metadata give equal bytes.

    safetensors 0.8 writes metadata in a random order. Sorted, the header has the same length, so it is overwritten in
    place.
    """
    from safetensors.torch import save_file

    contiguous = unshared({name: tensors[name].detach().to("cpu").contiguous() for name in sorted(tensors)})
    with atomic_path(path, durable) as temporary:
        save_file(contiguous, str(temporary), metadata=dict(metadata or {}) or None)
        length, header = _read_header(temporary)
        text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > length:
            raise FormatError(path, "its header grew when its keys were sorted", "report this as a bug")
        with open(temporary, "r+b") as file:
            file.seek(8)
            file.write(text.ljust(length))


def read_tensors(path: Path | str, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; raises FormatError or InputError."""
    from safetensors import SafetensorError
    from safetensors.torch import load, load_file

    try:
        if device == "cpu" and os.path.isfile(path) and os.path.getsize(path) < MAPPED:
            data = Path(path).read_bytes()
            return load(data), _metadata_in(data)  # `load` checks the header
        metadata = read_metadata(path)
        return load_file(str(path), device=device), metadata
    except (SafetensorError, KeyError) as error:  # KeyError: a dtype that this torch does not have
        read_metadata(path)  # if the header has the fault, this error says more
        raise FormatError(path, f"is damaged ({error})", _AGAIN) from error
