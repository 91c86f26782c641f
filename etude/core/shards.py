"""Shards: the tensors of many pictures or texts in few safetensors files, of which only the used parts are read.

An entry is a name with its tensors. A shard holds entries whose names follow each other: each tensor as
``<entry>.<tensor>``, and in the header the SHA-256 of each entry. ``shards.json`` has the SHA-256 of each shard.

Where a shard ends depends only on the names: on average after `MEAN` of them, at a name chosen by its digest. So one
more entry changes one shard; the other files stay the same, and DVC neither stores nor sends them again.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from etude.core.errors import FormatError, InputError
from etude.core.files import read_json, sha256_file, write_json
from etude.core.store import key as key_of
from etude.core.store import remembered
from etude.core.tensors import read_layout, read_metadata, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

    Layout = tuple[str, tuple[int, ...]]  # of a tensor: safetensors' name of its type, and its shape

INDEX = "shards.json"
CAPTIONS = "captions.json"  # beside the shards of texts: the caption of each picture
REPEATS = "repeats.json"  # beside the shards of latents, if some pictures do not count once: how often each counts
SIZES = "sizes"  # the tensor beside a picture's latents, if the base's family is conditioned on sizes
MEAN, LONGEST = 128, 512  # entries of a shard; 128 pictures of 512 px are 17 MB, of 1024 px 67 MB
TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64", "U8": "uint8"}
_AGAIN = "delete this folder and run `dvc repro`"


def write_shards(folder: Path, names: Iterable[str], read: Callable[[str], Mapping[str, Tensor]]) -> None:
    """Write the entries ``names`` to an existing folder; ``read`` returns the tensors of one.

    The entries of one shard are in memory at once.
    """
    digests = {}
    for group in _groups(sorted(names, key=_place)):
        entries = {name: read(name) for name in group}
        tensors = {f"{name}.{key}": tensor for name, entry in entries.items() for key, tensor in entry.items()}
        file = folder / f"from-{group[0]}.safetensors"
        write_tensors(file, tensors, {name: _digest(entry) for name, entry in entries.items()})
        digests[file.name] = sha256_file(file)
    write_json(folder / INDEX, digests)


def text_entry(text: str) -> str:
    """The name of the entry of a text."""
    return key_of(text)[:16]


def _place(name: str) -> str:
    """The sort key of entries: it gives the order of the prepared pictures, `<name>.png`."""
    return f"{name}."


def _groups(names: Iterable[str]) -> Iterator[list[str]]:
    """The names of each shard."""
    group: list[str] = []
    for name in names:
        group.append(name)
        if len(group) == LONGEST or hashlib.sha256(name.encode()).digest()[0] % MEAN == 0:
            yield group
            group = []
    if group:
        yield group


def _digest(entry: Mapping[str, Tensor]) -> str:
    import torch

    digest = hashlib.sha256()
    for key, tensor in sorted(entry.items()):
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


class Shards:
    """The entries of one or more folders, in order; ``names`` are the entries' names, each after its folder's prefix.

    Opening it reads headers and compares digests. Tensors are mapped into memory: the system reads a part of a file
    when it is used, and can release it again.

    Raises InputError or FormatError if a folder or a shard is missing, damaged or of another form.
    """

    def __init__(self, *folders: tuple[str, Path]) -> None:
        self._files: list[Path] = []
        self._starts: list[int] = []  # position of each file's first entry
        self._columns: dict[str, _Column] = {}
        self._maps: dict[int, Tensor] = {}
        names: list[str] = []
        for prefix, folder in folders:
            for file, digest in _listed(folder).items():
                self._starts.append(len(names))
                names += [prefix + name for name in self._add(file, digest, len(names))]
        self.names = tuple(names)

    def column(self, key: str) -> Sequence[Tensor]:
        """The tensors ``key`` of all entries, in the order of `names`; raises FormatError if an entry has none."""
        column = self.optional(key)
        for position, name in enumerate(self.names):
            if not column.has(position):
                raise FormatError(self._files[self._shard(position)], f"has no `{key}` of {name}", _AGAIN)
        return cast("Sequence[Tensor]", column)

    def optional(self, key: str) -> _Column:
        """As `column`, with None for each entry that has none."""
        column = self._columns.get(key) or _Column(self)
        column.fill(len(self.names))
        return column

    def find(self, name: str) -> int | None:
        """The position of the entry ``name``; None if there is none."""
        return self._positions.get(name)

    def digest(self, position: int) -> str:
        """The SHA-256 of an entry."""
        shard = self._shard(position)
        digests = read_metadata(self._files[shard])
        return digests[sorted(digests, key=_place)[position - self._starts[shard]]]

    def data(self, position: int) -> Tensor:
        """The whole shard with the entry at ``position``: uint8 [bytes], mapped into memory."""
        shard = self._shard(position)
        if shard not in self._maps:
            import torch

            file = self._files[shard]
            self._maps[shard] = torch.from_file(str(file), shared=False, size=file.stat().st_size, dtype=torch.uint8)
        return self._maps[shard]

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {name: position for position, name in enumerate(self.names)}

    def _shard(self, position: int) -> int:
        return bisect_right(self._starts, position) - 1

    def _add(self, file: Path, digest: str, first: int) -> list[str]:
        """Add the entries of a shard; returns their names."""
        begin, header = read_layout(file)  # the error names a file that is missing or cut
        if remembered(file) != digest:
            raise FormatError(file, "is damaged: its content is not what was written", _AGAIN)
        self._files.append(file)
        names = sorted(header.pop("__metadata__", {}), key=_place)
        positions = {name: first + number for number, name in enumerate(names)}
        for full, tensor in sorted(header.items(), key=lambda item: positions.get(item[0].rpartition(".")[0], -1)):
            name, _, key = full.rpartition(".")
            if name not in positions or tensor["dtype"] not in TYPES:
                raise FormatError(
                    file, f"has the tensor `{full[:80]}`, which belongs to no entry or has an unknown type", _AGAIN
                )
            layout = (tensor["dtype"], tuple(tensor["shape"]))
            self._columns.setdefault(key, _Column(self)).add(positions[name], begin + tensor["data_offsets"][0], layout)
        return names


class _Column(Sequence[Any]):
    """The tensors of all entries under one key; None for each entry that has none."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._begins = array("q")  # bytes from the start of the file; -1: no tensor
        self._layouts: list[Layout | None] = []
        self._known: dict[Layout, Layout] = {}  # each layout once: entries share it

    def __len__(self) -> int:
        return len(self._begins)

    def __getitem__(self, position: Any) -> Any:
        import torch

        position = range(len(self))[position]
        layout = self._layouts[position]
        if layout is None:
            return None
        kind, shape = getattr(torch, TYPES[layout[0]]), layout[1]
        begin = self._begins[position]
        part = self._shards.data(position)[begin : begin + prod(shape) * kind.itemsize]
        return part.view(kind).view(shape)

    def has(self, position: int) -> bool:
        """Whether an entry has this tensor."""
        return self._layouts[position] is not None

    def add(self, position: int, begin: int, layout: Layout) -> None:
        """Add the tensor of an entry; positions come in order."""
        self.fill(position)
        self._begins.append(begin)
        self._layouts.append(self._known.setdefault(layout, layout))

    def fill(self, length: int) -> None:
        """Record that entries up to ``length`` that were not added have no such tensor."""
        self._begins.extend([-1] * (length - len(self._begins)))
        self._layouts.extend([None] * (length - len(self._layouts)))


def _listed(folder: Path) -> dict[Path, str]:
    """The shards of a folder in order, each with the SHA-256 that it had when it was written."""
    found = {file.name for file in folder.glob("*.safetensors")}
    if not (folder / INDEX).exists():
        if found:
            raise InputError(
                folder, f"has files but no {INDEX}: an earlier version wrote them, or a stage did not finish", _AGAIN
            )
        raise InputError(folder, "is missing or empty", "run `dvc repro` so that the stage that fills it runs")
    digests = read_json(folder / INDEX)
    if not isinstance(digests, dict) or any(Path(name).name != name for name in digests):
        raise InputError(folder / INDEX, "is no list of shards", _AGAIN)
    if others := sorted(found - set(digests)):
        raise InputError(folder / others[0], f"is not in {INDEX} beside it", _AGAIN)
    return {folder / name: digests[name] for name in sorted(digests)}
