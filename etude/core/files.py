"""Files that are whole or absent: atomic writes, content hashes, JSON and tensors with one byte form each.

A name that comes from elsewhere (from another program's file, say) is text, never a path: `file_name` makes the name of
a file of it, and `Draft.path` alone says where that lies.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
import sys
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.core.errors import ConflictError, FormatError, InputError

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 1 << 20  # bytes read at a time when hashing
LONGEST = 200  # bytes of a name: file systems take 255, and while a file is written its name is longer
STEM = 100  # bytes of a name that `file_name` makes; what is put behind it still fits
# Devices of Windows, whatever follows the first dot, and what a name cannot hold on one system or another.
DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE)
FORBIDDEN = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')
REPLACE = "Take the place of what is there."  # the help of --replace, of every command that has it


def file_name(text: str) -> str:
    """A name for a file, without suffix, made of any text: letters, digits and ``._-``, as A1111 cleans names.

    Never empty, and never longer than STEM bytes. Different texts may give one name: `Draft.path` refuses the second.
    """
    kept = re.sub(r"[^\w.-]", "", unicodedata.normalize("NFC", text)).strip(".").lstrip("-")
    kept = kept.encode(errors="ignore")[:STEM].decode(errors="ignore").rstrip(".")
    return f"_{kept}" if DEVICE.fullmatch(kept) else kept or "etude"


def _name_fault(name: str) -> str:
    """Why a file cannot be called ``name`` on every system; empty where it can."""
    if not name.strip(".") or name.endswith((".", " ")):
        return "is no file's name"
    if found := FORBIDDEN.search(name):
        return f"has {found[0]!r} in it"
    if DEVICE.fullmatch(name):
        return "is a device on Windows"
    return f"has more than {LONGEST} bytes" if len(os.fsencode(name)) > LONGEST else ""


@dataclass(frozen=True)
class Draft:
    """A folder that is being filled: the paths in it, for names from elsewhere."""

    folder: Path
    _given: set[str] = field(default_factory=set)

    def path(self, *names: str) -> Path:
        """The path of a file: its name, after those of the folders that it lies in.

        Raises InputError for what is no plain name, for a way out through a link, and for a path that was given
        before, small and capital letters being alike: two files never become one.
        """
        for name in names:
            if fault := _name_fault(name):
                raise InputError(repr(name[:80]), f"{fault}: nothing is written under this name", "choose another")
        path, home = self.folder.joinpath(*names), self.folder.resolve()
        if not names or path.is_symlink() or home not in path.resolve().parents:
            raise InputError(path, f"leads out of {self.folder}", "remove the link")
        key = path.as_posix().casefold()
        if key in self._given:
            raise InputError(path.name, "would be written twice: two names give one file", "rename one of the two")
        self._given.add(key)
        return path

    def below(self, *names: str) -> Draft:
        """The draft of a folder in this one, which is made when something is written into it."""
        return Draft(self.path(*names))


def beside(path: Path, name: object) -> Path:
    """The file ``name``, which the file ``path`` says lies beside it; raises FormatError for any other place."""
    if Path(str(name)).name != name:
        raise FormatError(
            path, f"names {name!r}, which is no file beside it", "fetch it again, from a source you trust"
        )
    return path.with_name(str(name))


def refuse_existing(path: Path, replace: bool = False) -> None:
    """Raise ConflictError when something is at ``path``, a link to nothing included, unless it may be replaced."""
    if not replace and os.path.lexists(path):
        raise ConflictError(path, "exists already", "choose another name or folder, or say --replace")


def sha256_file(path: Path | str) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def sha256_tree(path: Path | str, suffixes: Sequence[str] | None = None) -> str:
    """Hex digest of a file, or of all files below a folder with their relative names.

    Hidden files and ``__pycache__`` do not count; ``suffixes`` (such as ``(".py",)``) narrows what does.
    Raises InputError when nothing is there.
    """
    files = tree_files(path)
    if suffixes is not None and "" not in files:
        files = {name: file for name, file in files.items() if file.suffix in suffixes}
    return tree_digest({name: sha256_file(file) for name, file in files.items()})


def tree_files(path: Path | str) -> dict[str, Path]:
    """The files below a folder by their relative POSIX names, in order; a file by the name "".

    Hidden files and ``__pycache__`` do not count. Raises InputError when nothing is there.
    """
    path = Path(path)
    if path.is_file():
        return {"": path}
    if not path.is_dir():
        raise InputError(path, "is missing", "run `dvc repro` so that the stage that makes it runs first")
    found: dict[str, Path] = {}
    for folder, folders, files in os.walk(path):
        folders[:] = [name for name in folders if name[0] != "." and name != "__pycache__"]
        place = Path(folder)
        paths = (place / name for name in files if name[0] != "." and name != "__pycache__")
        found |= {file.relative_to(path).as_posix(): file for file in paths if file.is_file()}
    return dict(sorted(found.items(), key=lambda item: item[0].split("/")))


def tree_digest(digests: Mapping[str, str]) -> str:
    """The hex digest that `sha256_tree` gives, from those of the files that `tree_files` names."""
    if "" in digests:
        return digests[""]
    text = "".join(f"{name}\0{digest}\n" for name, digest in digests.items())
    return hashlib.sha256(text.encode()).hexdigest()


def _sync(path: Path) -> None:
    """Have a file's content, or the entries of a folder, on the disk. Windows opens no folder, and no file to read."""
    if sys.platform == "win32" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary sibling to write to; on success it becomes ``path``, on an error it is gone.

    The temporary name keeps the suffix, for libraries that choose a format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replace_folder(path: Path | str) -> Iterator[Path]:
    """Yield a fresh temporary folder; on success it takes the place of ``path``, on an error ``path`` stays."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.exists():
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-old-"))
            os.replace(path, old / path.name)
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def add_to_folder(folder: Path, *, replace: bool = False) -> Iterator[Draft]:
    """Yield a draft; on success all that is in it moves into ``folder``, on an error nothing does.

    Raises ConflictError, before anything moves, for what is there already, unless it may be replaced. A link there is
    replaced itself; what it leads to stays.
    """
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".draft-"))
    try:
        (temporary / "new").mkdir()
        (temporary / "old").mkdir()
        yield Draft(temporary / "new")
        tops = sorted(path.name for path in (temporary / "new").iterdir())
        for name in tops:
            refuse_existing(folder / name, replace)
        for name in tops:
            if os.path.lexists(folder / name):
                os.replace(folder / name, temporary / "old" / name)
            os.replace(temporary / "new" / name, folder / name)
        _sync(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if new and not any(folder.iterdir()):
            folder.rmdir()


def write_json(path: Path | str, data: Any) -> None:
    """Write JSON atomically: sorted keys, two spaces, no NaN, one byte form for equal data."""
    text = json.dumps(data, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path | str) -> Any:
    """Read JSON; raises InputError when the file is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(path, "is missing", "run `dvc repro` so that the stage that makes it runs first") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(path, f"is not JSON ({error})", "delete it and run `dvc repro`") from error


def _read_header(path: Path | str) -> tuple[int, dict[str, Any]]:
    try:
        with open(path, "rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= 100_000_000:
                raise FormatError(path, "is not a safetensors file", "check how it was made or fetched")
            return length, json.loads(file.read(length))
    except FileNotFoundError:
        raise InputError(path, "is missing", "run `dvc repro` so that the stage that makes it runs first") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FormatError(path, "has a damaged safetensors header", "fetch or make it again") from error


def read_header(path: Path | str) -> dict[str, Any]:
    """The header of a safetensors file, without its data: tensor name → dtype and shape, ``__metadata__`` → strings."""
    return _read_header(path)[1]


def read_metadata(path: Path | str) -> dict[str, str]:
    """The ``__metadata__`` of a safetensors file, read from its header alone."""
    return dict(read_header(path).get("__metadata__", {}))


def write_tensors(path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write safetensors atomically, with sorted header keys: equal tensors and metadata give equal bytes.

    The library (0.8) writes metadata in a random order; sorting changes no length, so the header is replaced in place.
    """
    from safetensors.torch import save_file

    contiguous = {name: tensors[name].detach().to("cpu").contiguous() for name in sorted(tensors)}
    with atomic_path(path) as temporary:
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
    from safetensors.torch import load_file

    metadata = read_metadata(path)
    try:
        return load_file(str(path), device=device), metadata
    except SafetensorError as error:
        raise FormatError(path, f"is damaged ({error})", "fetch or make it again") from error
