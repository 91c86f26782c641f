"""Files that hold captions for many pictures: Hugging Face's metadata.jsonl and .csv, kohya's meta_cap.json.

They name pictures by paths, often those of another machine. A name is compared with the names of the pictures here,
and is never opened.
"""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from etude.core.beside.fields import caption_of
from etude.core.beside.texts import read_text
from etude.core.errors import InputError

LARGEST = 1 << 28  # bytes; captions of a million pictures
# kohya's steps write the meta files one after the other; the last file contains what the others contain
ORDER = ("metadata.jsonl", "metadata.csv", "meta_lat.json", "meta_clean.json", "meta_cap_dd.json", "meta_cap.json")
NAMES = ("file_name", "image_path")  # fields of a row that name its picture: Hugging Face, musubi-tuner
NEXT = "correct the file, or delete it"

Rows = Iterator[tuple[str, str | None]]  # the name of a picture, and its caption
# How alike a name in a listing and a path are: whether the name, relative to the listing, is in the path's folder; and
# how many of their last folders are equal.
Likeness = tuple[bool, int]


class Listing(NamedTuple):
    """The captions in a file, by the folder's pictures; and the names in it that match none of them, or several."""

    captions: dict[str, str]
    strangers: list[str]


def list_candidates(files: Iterable[str]) -> list[str]:
    """Those of the ``files`` that may be listings, the ones that count most first."""
    found = [name for name in files if PurePosixPath(name).suffix.lower() in READERS]
    return sorted(found, key=lambda name: (_rank(PurePosixPath(name).name.lower()), name))


def _rank(name: str) -> int:
    return ORDER.index(name) if name in ORDER else len(ORDER)


def read_listing(folder: Path, name: str, pictures: Mapping[str, list[str]]) -> Listing | None:
    """The captions in the file ``name`` of ``folder``; None if it is no listing.

    ``pictures`` is `by_last_part` of the folder's pictures. Raises InputError for a damaged file.
    """
    path = folder / name
    if path.stat().st_size > LARGEST:
        return None
    rows = READERS[path.suffix.lower()](path, read_text(path).text)
    if rows is None:
        return None
    return _matched(rows, PurePosixPath(name).parent, pictures)


def _matched(rows: Rows, beside: PurePosixPath, pictures: Mapping[str, list[str]]) -> Listing:
    """The captions by picture; of several rows for one picture, the one whose name is most like the picture's path."""
    best: dict[str, tuple[Likeness, str, str | None]] = {}  # picture → likeness, name and caption of the best row
    strangers = []
    for name, caption in rows:
        meant, likeness = places_of(name, beside, pictures)
        if not meant:
            strangers.append(name)
        for picture in meant:
            known = best.get(picture)
            if known is None or likeness > known[0]:
                best[picture] = likeness, name, caption
            elif likeness == known[0] and name != known[1]:  # two rows fit equally well
                best[picture] = likeness, name, None
                strangers.append(name)
    return Listing({picture: caption for picture, (_, _, caption) in best.items() if caption}, strangers)


def by_last_part(pictures: Iterable[str]) -> dict[str, list[str]]:
    """The pictures by their file names, with the suffix and, as in kohya's files, without it."""
    found: dict[str, list[str]] = {}
    for picture in pictures:
        last = PurePosixPath(unicodedata.normalize("NFC", picture))
        for part in dict.fromkeys((last.name, last.stem)):
            found.setdefault(part, []).append(picture)
    return found


def places_of(name: str, beside: PurePosixPath, pictures: Mapping[str, list[str]]) -> tuple[list[str], Likeness]:
    """The pictures that ``name`` means in a listing in the folder ``beside``: those whose path ends most like it.

    No picture if several pictures of different folders fit equally well.
    """
    wanted = PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/")))
    found = pictures.get(wanted.name, [])
    found = [picture for picture in found if PurePosixPath(picture).name == wanted.name] or found
    shared = {picture: _likeness(wanted, PurePosixPath(picture), beside) for picture in found}
    most = max(shared.values(), default=(False, 0))
    best = [picture for picture in found if shared[picture] == most]
    folders = {PurePosixPath(picture).parent for picture in best}
    return (best if len(folders) == 1 else []), most


def _likeness(wanted: PurePosixPath, here: PurePosixPath, beside: PurePosixPath) -> Likeness:
    equal = 0
    for one, other in zip(reversed(wanted.parts[:-1]), reversed(here.parts[:-1]), strict=False):
        if one != unicodedata.normalize("NFC", other):
            break
        equal += 1
    return (beside / wanted).parent == here.parent, equal


def _lines(path: Path, text: str) -> Rows | None:
    """Rows of JSON lines, each an object that names its picture."""
    first = next(filter(None, map(str.strip, text.splitlines())), "")
    if _row(_parsed(first)) is None:
        return None
    return _read_lines(path, text)


def _read_lines(path: Path, text: str) -> Rows:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            row = _row(_parsed(line))
            if row is None:
                raise InputError(path, f"line {number} is no JSON object that names a picture", NEXT)
            yield row


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _row(fields: Any) -> tuple[str, str | None] | None:
    if not isinstance(fields, dict):
        return None
    name = next((fields[key] for key in NAMES if isinstance(fields.get(key), str)), None)
    return (name, caption_of(fields)) if name else None


def _table(path: Path, text: str) -> Rows | None:
    """Rows of a table whose head has a column that names pictures."""
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        if not set(NAMES) & set(reader.fieldnames or []):
            return None
        rows = [_row(fields) for fields in reader]
    except csv.Error as error:
        raise InputError(path, f"is no table ({error})", NEXT) from error
    return (row for row in rows if row)


def _objects(path: Path, text: str) -> Rows | None:
    """kohya's form: one object, in which each picture has an object with a caption, tags, or both."""
    content = _parsed(text)
    if not isinstance(content, dict) or not content:
        return None
    if not all(isinstance(fields, dict) for fields in content.values()):
        return None
    return ((name, caption_of(fields)) for name, fields in content.items())


READERS: dict[str, Callable[[Path, str], Rows | None]] = {".jsonl": _lines, ".csv": _table, ".json": _objects}
