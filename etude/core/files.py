"""Reading and writing files: atomic writes, content hashes, JSON. Equal data gives equal bytes.

A name from outside (for example from another program's file) is text, never a path: `file_name` makes a file name from
it, and only `Draft.path` makes a path from a file name.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etude.core.errors import ConflictError, FormatError, InputError

CHUNK = 1 << 20  # bytes read at a time when hashing
SMALL = 1 << 16  # bytes of a file that is copied by one read and one write, in a third of the time of a shared copy
LONGEST = 200  # bytes of a name: file systems allow 255, and the temporary name during writing is longer
STEM = 100  # bytes of a name that `file_name` makes, so that a suffix still fits
# names of devices on Windows (with any suffix), and characters that some system does not allow in file names
DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE)
FORBIDDEN = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')
JOINERS = "\u200c\u200d"  # invisible, but parts of Persian words and of emoji
REPLACE = "Take the place of what is there."  # the help text of the option --replace, for every command that has it


def file_name(text: str) -> str:
    """A file name without suffix, made from any text: its letters, digits, emoji and ``._-``.

    In A1111 this is the word that is typed in prompts. It is never empty, and never longer than STEM bytes. Two texts
    may give the same name: `Draft.path` refuses the second.
    """
    name = _kept(text).encode(errors="ignore")[:STEM].decode(errors="ignore").rstrip(".")
    return f"_{name}" if DEVICE.fullmatch(name) else name or "etude"


def file_name_fault(text: str) -> str:
    """Why no file can be named after a text (`file_name` would return another word); empty if one can."""
    if not _kept(text):
        return "has no letter, digit or emoji, so no file can have this name"
    return f"has more than {STEM} bytes, too many for the name of a file" if is_cut(text) else ""


def is_cut(text: str) -> bool:
    """Whether `file_name` leaves out the end of a text, because it is too long."""
    return len(_kept(text).encode(errors="ignore")) > STEM


def _kept(text: str) -> str:
    return "".join(filter(_is_kept, unicodedata.normalize("NFC", text))).strip("." + JOINERS).lstrip("-")


def _is_kept(letter: str) -> bool:
    """Whether a character may be in a file name: also combining marks (हिन्दी), emoji, modifiers such as skin tones."""
    category = unicodedata.category(letter)
    tone = category == "Sk" and not letter.isascii()
    return letter.isalnum() or letter in "_.-" + JOINERS or category[0] == "M" or category == "So" or tone


def _name_fault(name: str) -> str:
    """Why ``name`` is not allowed as a file name on every system; empty if it is allowed."""
    if not name.strip(".") or name.endswith((".", " ")):
        return "is not a valid file name"
    if match := FORBIDDEN.search(name):
        return f"has {match[0]!r} in it"
    if DEVICE.fullmatch(name):
        return "is the name of a device on Windows"
    return f"has more than {LONGEST} bytes" if len(os.fsencode(name)) > LONGEST else ""


@dataclass(frozen=True)
class Draft:
    """A folder that is being filled; it makes safe paths in it from names that come from outside."""

    folder: Path
    _returned: set[str] = field(default_factory=set)

    def path(self, *names: str) -> Path:
        """The path of a file in this folder; ``names`` are subfolders and then the file's name.

        Raises InputError for a name that is not allowed, for a link that leads out of the folder, and for a path that
        was returned before (upper and lower case are equal), so that two files never become one.
        """
        for name in names:
            if fault := _name_fault(name):
                raise InputError(
                    repr(name[:80]), f"{fault}: no file can be written under this name", "choose another name"
                )
        path, home = self.folder.joinpath(*names), self.folder.resolve()
        if not names or path.is_symlink() or home not in path.resolve().parents:
            raise InputError(path, f"is a link, or leads out of {self.folder}", "remove the link")
        key = path.as_posix().casefold()
        if key in self._returned:
            raise InputError(path.name, "would be written twice: two names give the same file", "rename one of the two")
        self._returned.add(key)
        return path

    def below(self, *names: str) -> Draft:
        """The draft of a subfolder; the subfolder is created when something is written into it."""
        return Draft(self.path(*names))


def split_suffix(name: str) -> tuple[str, str]:
    """A POSIX path without its last suffix, and that, as pathlib sees them: ``sub/fox.b`` and ``.png``.

    Without paths, which cost ten times as much, as a set has many names.
    """
    begin, dot = name.rfind("/") + 1, name.rfind(".")
    return (name[:dot], name[dot:]) if begin < dot < len(name) - 1 else (name, "")


def beside(path: Path, name: object) -> Path:
    """The file ``name`` in the folder of the file ``path``, which refers to it; raises FormatError for other places."""
    text = str(name)
    if text in ("", "..") or Path(text).name != name or len(text.encode(errors="replace")) > LONGEST:
        fault = f"refers to {text[:60]!r}, which is not a file in the same folder"
        raise FormatError(path, fault, "fetch it again, from a source you trust")
    return path.with_name(text)


def refuse_existing(path: Path, replace: bool = False) -> None:
    """Raise ConflictError if ``path`` exists (also as a broken link), unless it may be replaced."""
    if not replace and os.path.lexists(path):
        raise ConflictError(path, "exists already", "choose another name or folder, or add --replace")


def sha256_file(path: Path | str) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def sha256_tree(path: Path | str, suffixes: Sequence[str] | None = None) -> str:
    """Hex digest of a file, or of all files below a folder with their relative names.

    Hidden files and ``__pycache__`` do not count; with ``suffixes``, such as ``(".py",)``, only files with these do.
    Raises InputError if ``path`` does not exist.
    """
    files = tree_files(path)
    if suffixes is not None and "" not in files:
        files = {name: file for name, file in files.items() if file.suffix in suffixes}
    return tree_digest({name: sha256_file(file) for name, file in files.items()})


def tree_files(path: Path | str) -> dict[str, Path]:
    """The files below a folder, by their relative POSIX names, sorted; if ``path`` is a file, it has the name "".

    Hidden files and ``__pycache__`` do not count. Raises InputError if ``path`` does not exist.
    """
    path = Path(path)
    return {name: path / name if name else path for name in tree_names(path)}


def tree_names(path: Path | str) -> list[str]:
    """The names of `tree_files`. They are texts, as a path costs ten times as much, and a set has many."""
    if os.path.isfile(path):
        return [""]
    if not os.path.isdir(path):
        raise InputError(path, "is missing", "run `dvc repro` if a stage makes it; otherwise correct the path")
    return sorted(_names_below(path), key=lambda name: name.split("/"))


def _names_below(folder: Path | str, before: str = "") -> Iterator[str]:
    """The names of the files in a folder and in those below it, each behind ``before``; links to folders are none."""
    try:
        entries = list(os.scandir(folder))
    except OSError:  # it may not be read, or was removed just now
        return
    for entry in entries:
        if entry.name[0] == "." or entry.name == "__pycache__":
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _names_below(entry.path, f"{before}{entry.name}/")
        elif entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path):  # a stat only for a link
            yield before + entry.name


def tree_digest(digests: Mapping[str, str]) -> str:
    """The hex digest of `sha256_tree`, computed from the digests of the files in `tree_files`."""
    if "" in digests:
        return digests[""]
    text = "".join(f"{name}\0{digest}\n" for name, digest in digests.items())
    return hashlib.sha256(text.encode()).hexdigest()


def _sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk. Windows opens no folders; files must be open for writing."""
    if sys.platform == "win32" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(path: Path | str, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary file in the same folder to write to; on success it becomes ``path``, on an error it is deleted.

    The temporary name has the same suffix, for libraries that choose a format by the suffix. Without ``durable`` the
    file may be damaged after a power failure, and writing is many times faster: for entries of the store whose reader
    compares them with a digest.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        if durable:
            _sync(temporary)
        os.replace(temporary, path)
        if durable:
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def copy_file(source: Path, place: Path) -> None:
    """Copy the bytes of a file to a new one. Where the file system can (Btrfs, XFS), large files share their blocks.

    A later change of one file does not change the other. With a hard link it would; DVC would replace one by a copy.
    """
    with open(source, "rb") as small:
        data = small.read(SMALL)
    if len(data) < SMALL:
        place.write_bytes(data)
        return
    if hasattr(os, "copy_file_range"):
        try:
            with open(source, "rb", buffering=0) as old, open(place, "wb", buffering=0) as new:
                while os.copy_file_range(old.fileno(), new.fileno(), 1 << 30):
                    pass
                if os.fstat(new.fileno()).st_size == os.fstat(old.fileno()).st_size:
                    return
        except OSError:
            pass
        # some kernels and file systems cannot do this; a few of them report the end of the file, not an error
    shutil.copyfile(source, place)


def _exchange(moves: Sequence[tuple[Path, Path, Path]]) -> None:
    """Move each first path to the second, and an existing second path to the third; on an error, undo all moves."""
    try:
        for new, place, old in moves:
            if os.path.lexists(place):
                os.replace(place, old)
            os.replace(new, place)
    except BaseException:  # also Ctrl-C between two moves: the caller would delete the old files
        for new, place, old in moves:
            if not os.path.lexists(new):
                os.replace(place, new)
            if os.path.lexists(old):
                os.replace(old, place)
        raise


@contextmanager
def replace_folder(path: Path | str) -> Iterator[Path]:
    """Yield a new temporary folder; on success it replaces ``path``, on an error ``path`` stays unchanged."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        yield temporary
        temporary.chmod(0o755)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-old-") as old:
            _exchange([(temporary, path, Path(old, path.name))])
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def add_to_folder(folder: Path, *, replace: bool = False) -> Iterator[Draft]:
    """Yield a draft; on success its whole content moves into ``folder``, on an error nothing moves.

    Raises ConflictError, before anything moves, if a file exists already and may not be replaced. If a link exists, the
    link is replaced, not its target.
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
        _exchange([(temporary / "new" / name, folder / name, temporary / "old" / name) for name in tops])
        _sync(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if new and not any(folder.iterdir()):
            folder.rmdir()


def write_json(path: Path | str, data: Any, indent: int | None = 2) -> None:
    """Write JSON atomically: sorted keys, two spaces, no NaN; equal data gives equal bytes.

    Without ``indent`` it is one line, written in a tenth of the time: for what is large and nobody reads.
    """
    text = json.dumps(data, sort_keys=True, indent=indent, ensure_ascii=False, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8", newline="\n")


def read_json(path: Path | str) -> Any:
    """Read JSON; raises InputError if the file is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(path, "is missing", "run `dvc repro` so that the stage that makes it runs first") from None
    except (ValueError, RecursionError) as error:  # not text, not JSON, too deep, or a number of 5,000 digits
        raise InputError(path, f"is not JSON ({error})", "delete it and run `dvc repro`") from error
