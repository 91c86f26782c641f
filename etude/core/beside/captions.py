"""The captions that exist for the pictures of a folder, from people and from other programs.

`ORIGINS` lists the places where a caption may be; an earlier place has precedence.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from etude.core.beside.fields import caption_of
from etude.core.beside.generated import prompt_in
from etude.core.beside.listings import by_last_part, list_candidates, read_listing
from etude.core.beside.texts import read_text
from etude.core.errors import InputError
from etude.core.files import split_suffix

# Suffixes of text files with a caption, the first counts most. kohya's scripts write .caption, taggers .tags.
TEXTS = (".txt", ".caption", ".captions", ".cap", ".text", ".tags")
# stems of files about the pictures
CARDS = frozenset({"license", "licence", "notice", "readme", "credits", "attribution", "copying"})
# folders in whose names kohya's scripts read repeats and a prompt: "10_sks dog"
REPEATS = re.compile(r"(?P<repeats>\d{1,3})_(?P<prompt>\S.*)")


class Existing(NamedTuple):
    """A caption that exists."""

    text: str  # lines and runs of spaces are one space each, as in the tokenizer; empty if people left it empty
    origin: str  # a key of ORIGINS
    file: str  # where it is: a file, or a folder, relative to the set's folder


class Captions:
    """The captions of one folder.

    ``files`` are all files in it, ``pictures`` those of them that are pictures, as names relative to the ``folder``.
    Files are read when they are needed; ``faults`` says what is wrong with a file, ``notes`` what people
    should know about it.
    """

    def __init__(self, folder: Path, files: Iterable[str], pictures: Iterable[str]) -> None:
        self.folder = folder
        self.files = sorted(files)
        self.pictures = list(pictures)
        self.faults: dict[str, str] = {}
        self.notes: dict[str, str] = {}

    def find(self, sources: Iterable[str]) -> Existing | None:
        """The caption of a picture; ``sources`` are its files, which have equal pixels. None if there is none."""
        names = list(sources)
        for origin, find in ORIGINS.items():
            for name in names:
                if (found := find(self, name)) is not None:
                    text, file = found
                    return Existing(" ".join(text.split()), origin, file)
        return None

    def beside(self, name: str) -> tuple[str, str] | None:
        """The text of a file beside the picture ``name``: ``fox.txt``, or else ``fox.png.txt``."""
        for file in self._beside(name, self._texts):
            try:
                text, note = read_text(self.folder / file)
            except InputError as error:  # one bad file does not stop the others
                self.faults[file] = error.fault
                continue
            lines = sum(bool(line.strip()) for line in text.splitlines())
            several = f"its {lines} lines are one caption; OneTrainer takes one of them, kohya the first"
            if notes := [note] * bool(note) + [several] * (lines > 1):
                self.notes[file] = "; ".join(notes)
            return text, file
        return None

    def sidecar(self, name: str) -> tuple[str, str] | None:
        """The caption in a JSON file beside the picture, as ai-toolkit and gallery-dl write it."""
        for file in self._beside(name, self._sidecars):
            fields = self._read_json(file)
            if isinstance(fields, dict) and (text := caption_of(fields)):
                return text, file
        return None

    def listed(self, name: str) -> tuple[str, str] | None:
        """The caption in a file for all pictures: metadata.jsonl, metadata.csv, meta_cap.json …"""
        return self._listed.get(name)

    def drawn(self, name: str) -> tuple[str, str] | None:
        """The prompt that a program wrote into the picture that it drew."""
        text = prompt_in(self.folder / name)
        return None if text is None else (text, name)

    def folder_name(self, name: str) -> tuple[str, str] | None:
        """The prompt in the name of the nearest folder that has one, as kohya's scripts read it."""
        *folders, _ = name.split("/")
        while folders:
            if match := REPEATS.fullmatch(folders[-1]):
                return match["prompt"], "/".join(folders)
            folders.pop()
        return None

    def _beside(self, name: str, files: dict[str, list[str]]) -> list[str]:
        return [*files.get(_stem(name), []), *files.get(_plain(name), [])]

    @cached_property
    def _texts(self) -> dict[str, list[str]]:
        """The text files, by their names without the last suffix; of one name, the first counts most."""
        return _by_stem(sorted((file for file in self.files if _suffix(file) in TEXTS), key=_rank))

    @cached_property
    def _sidecars(self) -> dict[str, list[str]]:
        return _by_stem(file for file in self.files if _suffix(file) == ".json")

    @cached_property
    def _listed(self) -> dict[str, tuple[str, str]]:
        """Pictures → the caption and the file that lists them; of several, of the first file."""
        names = {*map(_stem, self.pictures), *map(_plain, self.pictures)}
        places = by_last_part(self.pictures)
        found: dict[str, tuple[str, str]] = {}
        for file in list_candidates(self.files):
            if _stem(file) in names:
                continue  # it belongs to one picture
            try:
                listing = read_listing(self.folder, file, places)
            except InputError as error:
                self.faults[file] = error.fault
                continue
            if listing is None:
                continue
            if listing.strangers:
                count, first = len(listing.strangers), listing.strangers[0]
                self.notes[file] = (
                    f"{count} of its names fit no picture here, or several pictures, such as {first[-80:]}"
                )
            for picture, text in listing.captions.items():
                found.setdefault(picture, (text, file))
        return found

    def _read_json(self, file: str) -> object:
        try:
            return json.loads(read_text(self.folder / file).text)
        except InputError as error:
            self.faults[file] = error.fault
        except (ValueError, RecursionError) as error:
            self.faults[file] = f"is not JSON ({error})"
        return None


# Where a caption may be, the first counts most; each gives the text and the file for the name of a picture.
ORIGINS: dict[str, Callable[[Captions, str], tuple[str, str] | None]] = {
    "file": Captions.beside,
    "sidecar": Captions.sidecar,
    "listing": Captions.listed,
    "picture": Captions.drawn,
    "folder": Captions.folder_name,
}


def _suffix(name: str) -> str:
    return split_suffix(name)[1].lower()


def _rank(text: str) -> tuple[int, bool, str]:
    """The order of text files with one stem: by suffix, and one in small letters before the same in others."""
    return TEXTS.index(_suffix(text)), split_suffix(text)[1] not in TEXTS, text


def _by_stem(files: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for file in files:
        found.setdefault(_stem(file), []).append(file)
    return found


def _stem(name: str) -> str:
    """The name without its last suffix."""
    return _plain(split_suffix(name)[0])


def _plain(name: str) -> str:
    """A name in NFC: macOS writes é as two characters."""
    return unicodedata.normalize("NFC", name)
