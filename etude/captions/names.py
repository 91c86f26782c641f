"""Captions from the words of a file's name."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

# A1111's rule: leading digits and dashes are a serial number. Not so in "3d render" and "4k".
NUMBER = re.compile(r"^(?!\d[dDkK](?![^\W_]))[-\d]+\s*")
COPY = re.compile(r"\s*(\(\d+\)|\bcopy( \d+)?)\s*$", re.IGNORECASE)  # "name (1)", "name copy 2"
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
# Cameras and phones begin a name with one of these.
CODES = frozenset({"img", "imag", "dsc", "dscn", "dscf", "dcim", "pxl", "mvimg", "vid", "gopr", "dji", "pano", "burst"})
# Programs give names made of these; with digits and hashes they say nothing of what is seen.
GIVEN = CODES | {
    "image", "images", "photo", "photos", "pic", "picture", "pictures", "screenshot", "screen", "shot", "scan",
    "scanned", "untitled", "unnamed", "download", "file", "whatsapp", "signal", "telegram", "facebook", "received",
    "snapchat", "cropped", "edited", "resized", "original", "final", "copy", "temp", "tmp", "out", "output",
    "result", "sample", "grid", "seed", "mp", "mv", "at", "am", "pm", "jpg", "jpeg", "png", "webp", "gif", "bmp",
    "tif", "tiff",
}  # fmt: skip


def words_of_name(source: str) -> str | None:
    """``sub/0007-red_fox-2.jpg`` → ``red fox``; None where a name has no words: ``IMG_2931.JPG``, ``9f86d081.png``."""
    stem = UUID.sub("", PurePosixPath(source).stem)
    words = [word for word in re.split(r"[\s_\-+.,~]+", COPY.sub("", NUMBER.sub("", stem))) if word]
    while words and _says_nothing(words[-1]):  # serial numbers at the end
        words.pop()
    while words and (_says_nothing(words[0]) or words[0].lower() in CODES):
        words.pop(0)
    telling = any(_is_word(word) for word in words if word.lower() not in GIVEN and not _says_nothing(word))
    return " ".join(words) if telling else None


def _says_nothing(word: str) -> bool:
    """Whether it is a number or looks random: digits, or eight and more letters and digits mixed."""
    digits = sum(character.isdigit() for character in word)
    return digits == len(word) or (len(word) >= 8 and digits >= 2) or not any(map(str.isalnum, word))


def _is_word(word: str) -> bool:
    """Two letters at least; scripts without spaces say something with one."""
    return sum(character.isalpha() for character in word) >= (2 if word.isascii() else 1)
