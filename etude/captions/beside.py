"""Captions in text files beside the pictures."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from etude.core.errors import InputError

OTHERS = (".caption", ".captions", ".cap", ".tags", ".text", ".TXT")  # of other programs, which are not read here
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_beside(folder: Path, sources: Iterable[str]) -> str | None:
    """The text of the first of ``sources`` (files with equal pixels, in order) that has a ``.txt`` of its stem.

    Lines and runs of spaces become one space each, as in the tokenizer. An empty file is an empty caption.
    """
    for source in sources:
        path = (folder / source).with_suffix(".txt")
        if path.is_file():
            return " ".join(_decode(path).split())
    return None


def _decode(path: Path) -> str:
    data = path.read_bytes()
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        fault = f"is not text in UTF-8 (byte {error.start})"
        raise InputError(path, fault, "save it as UTF-8, or delete it") from error


def other_captions(folder: Path, sources: Iterable[str]) -> Counter[str]:
    """How many pictures without a ``.txt`` have a text of another suffix beside them, by suffix.

    kohya's scripts look for ``.caption`` unless told otherwise, others for ``.txt``: whole sets were trained without
    their captions.
    """
    stems = [folder / source for source in sources]
    bare = [path for path in stems if not path.with_suffix(".txt").is_file()]
    return Counter(suffix for path in bare for suffix in OTHERS if path.with_suffix(suffix).is_file())


def lonely_texts(folder: Path, sources: Iterable[str]) -> list[str]:
    """Texts without a picture of their stem, as sorted names relative to ``folder``; README and such don't count."""
    stems = {str(Path(source).with_suffix("")) for source in sources}
    texts = (path.relative_to(folder) for path in folder.rglob("*.txt") if path.is_file())
    seen = [path for path in texts if not _is_hidden(path)]
    lonely = [path for path in seen if str(path.with_suffix("")) not in stems and path.stem not in CARDS]
    return sorted(path.as_posix() for path in lonely)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


CARDS = frozenset({"README", "LICENSE", "LICENCE", "NOTICE", "CREDITS", "ATTRIBUTION", "captions", "words"})
