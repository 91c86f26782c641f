"""The content of an image set, read from its folder and from what *prepare* and *caption* made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etude.core.beside.captions import Captions
from etude.core.beside.repeats import repeats_of
from etude.core.errors import InputError
from etude.core.files import read_json
from etude.core.prepared import is_copy
from etude.images.folder import choose_pictures, list_files, name_unused, prepared_files
from etude.inspection.tiles import Entry, group_entries, share_kept
from etude.inspection.tokens import READ, Length, measure_text

Size = tuple[int, int]  # width, height


@dataclass(frozen=True)
class Caption:
    """The caption of a training picture, as in captions.json."""

    text: str
    origin: str  # where it comes from: a place or captioners, several joined by " + ", or none
    file: str  # the file that contains it; empty if a captioner wrote it
    length: Length


@dataclass(frozen=True)
class Picture:
    """A file of the set that is used, with the training pictures that are cut from it (several if it is split)."""

    name: str  # relative to the set's folder
    same: tuple[str, ...]  # further files with the same pixels
    entries: Mapping[str, Entry]  # of images.json, by id
    captions: Mapping[str, Caption]  # by the same ids
    kept: float  # the share of its pixels that the crops show
    notes: tuple[str, ...]

    @property
    def first(self) -> Entry:
        """The entry of its first training picture."""
        return next(iter(self.entries.values()))

    @property
    def size(self) -> Size:
        """Upright pixels of the file."""
        width, height = self.first["source_size"]
        return width, height

    @property
    def repeats(self) -> int:
        """How often it counts, by the name of its folder."""
        return repeats_of([self.name, *self.same])

    @property
    def target(self) -> Size:
        """Pixels of its training pictures."""
        width, height = self.first["size"]
        return width, height


@dataclass(frozen=True)
class Contents:
    """All of a set. Names are those of files, relative to ``folder``."""

    name: str
    folder: Path
    pictures: Mapping[str, Picture]  # by name, sorted
    copies: int  # the number of copies that *prepare* made
    skipped: Mapping[str, str]  # file: why it is left out
    near: tuple[tuple[str, ...], ...]  # groups of pictures that look alike
    faults: Mapping[str, str]  # file with captions: why it cannot be read
    doubts: Mapping[str, str]  # file with captions: a note about it
    unused: tuple[str, ...]  # files that nothing reads, by suffix
    read: int  # most tokens of a caption that are read


def read_set(name: str, folder: Path, made: Path, chunks: int = 1) -> Contents:
    """The image set ``name`` in ``folder``; ``made`` is its folder in `data`; ``chunks`` of a caption are read.

    Raises InputError for what is missing.
    """
    listing = read_json(made / "prepared" / "images.json")
    texts = read_json(made / "captioned" / "captions.json")
    notes: Mapping[str, list[str]] = listing.get("notes", {})
    pictures = {}
    for file, entries in sorted(group_entries(listing).items()):
        _, *same = next(iter(entries.values()))["sources"]
        captions = {identifier: _caption(texts, identifier, made, READ * chunks) for identifier in entries}
        kept = share_kept(list(entries.values()))
        pictures[file] = Picture(file, tuple(same), entries, captions, kept, tuple(notes.get(file, ())))
    files = list_files(folder)
    beside = Captions(folder, files, choose_pictures(files))
    for picture in pictures.values():
        beside.find([picture.name, *picture.same])  # reads files with captions, and finds their faults
    found = {entry["file"] for entry in texts.values() if "file" in entry}  # files with captions
    used = prepared_files(listing).union(found, beside.faults)
    return Contents(
        name=name,
        folder=folder,
        pictures=pictures,
        copies=sum(map(is_copy, listing["images"].values())),
        skipped=listing["skipped"],
        near=_near(listing),
        faults=dict(sorted(beside.faults.items())),
        doubts=dict(sorted(beside.notes.items())),
        unused=tuple(name_unused(files, used)),
        read=READ * chunks,
    )


def _caption(texts: Mapping[str, Any], identifier: str, made: Path, read: int) -> Caption:
    entry = texts.get(identifier)
    if entry is None:
        fault = f"has no caption of {identifier}, which was prepared"
        raise InputError(made / "captioned" / "captions.json", fault, f"run `dvc repro caption@{made.name}`")
    return Caption(entry["text"], entry["from"], entry.get("file", ""), measure_text(entry["text"], read))


def _near(listing: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """Groups of near duplicates: files that a chain of pairs connects. The largest groups come first."""
    above: dict[str, str] = {}  # file → its parent in the group; the root of a group is its own parent

    def top(name: str) -> str:
        while (upper := above.setdefault(name, name)) != name:
            above[name], name = above[upper], upper
        return name

    for one, other in listing["near_duplicates"]:
        first, second = (listing["images"][identifier]["sources"][0] for identifier in (one, other))
        above[top(first)] = top(second)
    groups: dict[str, list[str]] = {}
    for name in sorted(above):
        groups.setdefault(top(name), []).append(name)
    several = [tuple(group) for group in groups.values() if len(group) > 1]
    return tuple(sorted(several, key=lambda group: (-len(group), group)))
