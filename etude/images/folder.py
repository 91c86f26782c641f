"""The content of a folder of pictures: which files are tried as pictures, and which only accompany them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from etude.core.beside.captions import CARDS
from etude.core.errors import InputError
from etude.core.files import split_suffix

# Files that accompany pictures; the content of every other file is tried as a picture, whatever its suffix.
BESIDE = frozenset(
    {".txt", ".caption", ".captions", ".cap", ".tags", ".text"}
    | {".md", ".rst", ".html", ".pdf", ".log", ".xmp", ".xml", ".aae", ".ini", ".db", ".zip"}
    | {".json", ".jsonl", ".yaml", ".yml", ".toml", ".csv", ".tsv", ".py", ".dvc", ".npz", ".npy", ".pt"}
    | {".safetensors"}
)
MASKS = ("_att", "-masklabel")  # ends of the stems of masks beside their pictures, in DreamArtist and OneTrainer
CONDITION = "-condlabel"  # end of the stem of OneTrainer's conditions, which are no pictures to learn
MASK_FOLDERS = frozenset({"mask", "masks", "conditioning"})  # kohya: conditioning_data_dir, with the pictures' names


class Listing(NamedTuple):
    """The contents of a folder, as sorted POSIX paths relative to it."""

    files: list[str]
    others: dict[str, str]  # what cannot be read as a file: links to folders, pipes …, each with the reason


def list_folder(folder: Path | str) -> Listing:
    """All files below ``folder`` that are not hidden. Links to files are followed, links to folders are not.

    DVC does not follow links to folders either, and would not notice a change behind one. Raises InputError if the
    folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        if folder.with_name(f"{folder.name}.dvc").exists():
            raise InputError(folder, "is tracked by DVC, but its content is not here", f"run `dvc pull {folder}`")
        if folder.exists():
            raise InputError(folder, "is a file, not a folder", "give the folder that holds the pictures")
        raise InputError(folder, "does not exist", "put the pictures there, or correct the folder's name")
    found: dict[str, str | None] = {}
    for place, folders, names in os.walk(folder, onerror=lambda error: found.update(_closed(folder, error))):
        folders[:] = [name for name in folders if not _hidden(name)]
        before = "" if place == str(folder) else f"{Path(place).relative_to(folder).as_posix()}/"
        linked = [name for name in folders if os.path.islink(os.path.join(place, name))]
        for name in linked + [name for name in names if not _hidden(name)]:
            found[before + name] = _fault(os.path.join(place, name), before + name)
    others = {_readable(name): fault for name, fault in sorted(found.items()) if fault}
    return Listing(sorted(name for name, fault in found.items() if not fault), others)


def _closed(folder: Path, error: OSError) -> dict[str, str | None]:
    return {Path(error.filename).relative_to(folder).as_posix(): f"cannot be opened ({error.strerror})"}


def _fault(file: str, name: str) -> str | None:
    """Why ``file``, which a listing calls ``name``, is not a readable file; None if it is one."""
    if not os.path.isfile(file):
        path = Path(file)
        if path.is_dir():
            return "is a link to a folder, which is not followed: copy its pictures here"
        if not path.is_file():
            return "is a link to nothing" if path.is_symlink() else "is no file (a pipe, a socket or a device)"
    return None if _readable(name) == name else "has a name that is not UTF-8: rename it"


def _readable(name: str) -> str:
    """The name, with bytes that are not UTF-8 escaped: no listing could contain them."""
    return name.encode(errors="backslashreplace").decode()


def list_files(folder: Path | str) -> list[str]:
    """The files of `list_folder`."""
    return list_folder(folder).files


def list_pictures(folder: Path | str) -> dict[str, str | None]:
    """The pictures of `choose_pictures` below ``folder``."""
    return choose_pictures(list_files(folder))


def choose_pictures(files: Iterable[str]) -> dict[str, str | None]:
    """The ``files`` that are read as pictures: all but captions, masks, caches, cards and the like.

    Each has its mask, if there is one, with any suffix. For ``otter.png``, this is the first that exists of
    ``otter_att.png``, ``otter-masklabel.png`` and ``masks/otter.png``.
    """
    stems = {name: split_suffix(name)[0] for name in files if _picture(name)}
    others = {stem + end for stem in stems.values() for end in (*MASKS, CONDITION)}
    beside = {stem: name for name, stem in stems.items() if stem in others}
    apart = _masks_apart({name: stem for name, stem in stems.items() if stem not in others})
    in_folders = set(apart.values())
    pictures: dict[str, str | None] = {}
    for name, stem in stems.items():
        if stem not in others and name not in in_folders:
            masks = [beside[stem + end] for end in MASKS if stem + end in beside]
            pictures[name] = masks[0] if masks else apart.get(stem)
    return pictures


def mask_name(picture: str, mask: str) -> str:
    """The name of a picture's ``mask`` in ``images.json``: the file's name if it is beside it, otherwise the path."""
    return PurePosixPath(mask).name if PurePosixPath(mask).parent == PurePosixPath(picture).parent else mask


def mask_file(picture: str, named: str) -> str:
    """The path of a mask whose name by `mask_name` is ``named``."""
    return named if "/" in named else str(PurePosixPath(picture).with_name(named))


def prepared_files(listing: Mapping[str, Any]) -> set[str]:
    """The files in ``images.json``: those that *prepare* used, including masks, or left out with a reason."""
    files = set(listing["skipped"])
    for entry in listing["images"].values():
        files.update(entry["sources"])
        if "attention" in entry:
            files.add(mask_file(entry["sources"][0], entry["attention"]))
    return files


def _masks_apart(stems: Mapping[str, str]) -> dict[str, str]:
    """The masks in separate folders, by the stems of their pictures; ``stems``: file → its stem.

    A file in one of MASK_FOLDERS is a mask if a picture has the same path from there: ``masks/fox.png`` is the mask of
    ``fox.png`` and of ``10_fox/fox.png``. Otherwise it is a picture.
    """
    places = {name: _mask_place(stem) for name, stem in stems.items()}
    by_last: dict[str, list[str]] = {}
    for name, stem in stems.items():
        if places[name] is None:
            by_last.setdefault(_last(stem), []).append(stem)
    masks: dict[str, str] = {}
    for name, place in places.items():
        if place is None:
            continue
        around, below = place
        for stem in by_last.get(_last(below), []):
            if stem.startswith(around) and f"/{stem.removeprefix(around)}".endswith(f"/{below}"):
                masks.setdefault(stem, name)
    return masks


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _mask_place(stem: str) -> tuple[str, str] | None:
    """The parts of a path before and after its folder of masks; None if it has no such folder."""
    *folders, _ = stem.split("/")
    number = next((number for number, folder in enumerate(folders) if folder.lower() in MASK_FOLDERS), None)
    if number is None:
        return None
    return "".join(f"{folder}/" for folder in folders[:number]), "/".join(stem.split("/")[number + 1 :])


def name_unused(files: Iterable[str], used: Collection[str]) -> list[str]:
    """The ``files`` that are not ``used``, cards left out, as text: by suffix, with counts and the first of each."""
    by_kind: dict[str, list[str]] = {}
    for name in files:
        path = PurePosixPath(name)
        if name not in used and path.stem.lower() not in CARDS:
            kind = path.suffix or path.name
            if str(path.with_suffix("")) in used:  # fox.png.txt, whose picture is fox.png
                kind = PurePosixPath(path.stem).suffix + kind
            by_kind.setdefault(kind, []).append(name)
    order = sorted(by_kind, key=lambda kind: (-len(by_kind[kind]), kind))
    return [f"{len(by_kind[kind])} {kind} ({by_kind[kind][0]})" for kind in order]


def _hidden(part: str) -> bool:
    return part.startswith(".") or part in {"__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir"}


def _picture(name: str) -> bool:
    suffix = split_suffix(name)[1]
    return suffix.lower() not in BESIDE and not (suffix == "" and _last(name).lower() in CARDS)
