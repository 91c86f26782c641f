"""Captions in text files beside pictures, in the encodings that people use."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import NamedTuple

from etude.core.errors import InputError

MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
WINDOWS = "cp1252"
FOREIGN = 0.3  # highest share of bytes that are not ASCII in WINDOWS; in other old encodings it is higher
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")  # all but white space
MANY_BYTES = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")  # UTF-8
NEXT = "save it as UTF-8, or delete it"


class Text(NamedTuple):
    """A text, and a note on how it was read; the note is empty if there is nothing to say."""

    text: str
    note: str = ""


def read_text(path: Path) -> Text:
    """The text of a file in UTF-8, in UTF-16 with a byte order mark, or, with a note, in Windows-1252.

    Raises InputError for any other content.
    """
    data = path.read_bytes()
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")
    note = ""
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        windows = _windows(data) if encoding == "utf-8" else None
        if windows is None:
            raise InputError(path, f"is not text in UTF-8 (byte {error.start})", NEXT) from error
        text, note = windows, "is read as Windows-1252, as it is not UTF-8"
    if control := CONTROL.search(text):  # UTF-16 without a byte order mark is full of NULs
        fault = f"is no plain text (character {control.start()} is {control.group()!a})"
        raise InputError(path, fault, NEXT)
    return Text(text, note)


def _windows(data: bytes) -> str | None:
    """``data`` in Windows-1252; None for what looks like damaged UTF-8, or like an encoding of another script."""
    foreign = sum(byte > 127 for byte in data)
    if MANY_BYTES.search(data) or foreign > FOREIGN * len(data):
        return None
    try:
        return data.decode(WINDOWS)
    except UnicodeDecodeError:  # five bytes have no character in Windows-1252
        return None
