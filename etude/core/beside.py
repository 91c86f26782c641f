"""What lies beside the pictures of a folder: their captions in text files, and files about them all."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from etude.core.errors import InputError

MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
# stems of files about the pictures
CARDS = frozenset({"license", "licence", "notice", "readme", "credits", "attribution", "copying"})
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")  # all but white space


def find_captions(files: Iterable[str]) -> dict[str, str]:
    """Stem → the file that holds its caption: ``.txt``, else ``.TXT`` or ``.Txt``; of names relative to one folder."""
    found: dict[str, str] = {}
    for name in sorted(files, key=lambda file: (not file.endswith(".txt"), file)):
        path = PurePosixPath(name)
        if path.suffix.lower() == ".txt":
            found.setdefault(_stem(name), name)
    return found


def _stem(name: str) -> str:
    """The name without its suffix, in one form: macOS writes é as two characters."""
    return unicodedata.normalize("NFC", str(PurePosixPath(name).with_suffix("")))


def captions_of(sources: Iterable[str], captions: Mapping[str, str]) -> list[str]:
    """The files among `find_captions` that are beside one of ``sources``."""
    stems = dict.fromkeys(map(_stem, sources))
    return [captions[stem] for stem in stems if stem in captions]


def read_beside(folder: Path, sources: Iterable[str], captions: Mapping[str, str]) -> str | None:
    """The text beside the first of ``sources`` (files with equal pixels, in order) that has one in `find_captions`.

    Lines and runs of spaces become one space each, as in the tokenizer. An empty file is an empty caption.
    """
    names = captions_of(sources, captions)
    return " ".join(_decode(folder / names[0]).split()) if names else None


def _decode(path: Path) -> str:
    data = path.read_bytes()
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        fault = f"is not text in UTF-8 (byte {error.start})"
        raise InputError(path, fault, "save it as UTF-8, or delete it") from error
    if control := CONTROL.search(text):  # UTF-16 without its mark is full of NULs
        fault = f"is no plain text (character {control.start()} is {control.group()!a})"
        raise InputError(path, fault, "save it as UTF-8, or delete it")
    return text
