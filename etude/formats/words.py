"""The word, or name, of what is in a file of another program: it is typed in prompts, and files are named after it."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from etude.core.errors import FormatError
from etude.core.files import JOINERS
from etude.core.placeholder import NAME
from etude.core.spelling import as_read

LONGEST = 255  # bytes: a file's name can have no more
ACTION = "rename the file, or write it under another name with `etude convert --name`"


def choose_word(path: Path | str, *texts: object) -> str:
    """The first of ``texts`` that can be a word, with single spaces; raises FormatError for one that cannot be typed.

    None, empty texts, ``None`` and punctuation alone (as the ``*`` of the first embeddings) name nothing: the next is
    taken.
    """
    for text in texts:
        if text is None:
            continue
        if not isinstance(text, str):
            raise FormatError(path, f"has the name {str(text)[:40]!r}, which is a {type(text).__name__}", ACTION)
        word = " ".join(text.split())
        if word == "None" or not any(_names(letter) for letter in word):
            continue
        if fault := _fault(text.strip()):
            raise FormatError(path, f"has the name {text[:40]!r}, which {fault}", ACTION)
        return word
    shown = ", ".join(repr(text)[:40] for text in texts if text is not None)
    raise FormatError(path, f"has no name that can be a word ({shown or 'none at all'})", ACTION)


def choose_words(path: Path | str, texts: Sequence[object]) -> list[str]:
    """`choose_word` for each of several words; raises FormatError for two that prompts cannot tell apart."""
    words = [choose_word(path, text) for text in texts]
    known: dict[str, str] = {}
    for word in words:
        if other := known.get(as_read(word)):
            fault = f"has the words {other!r} and {word!r}, which prompts cannot tell apart"
            raise FormatError(path, fault, "remove or rename one of the two in the file")
        known[as_read(word)] = word
    return words


def _names(letter: str) -> bool:
    """Whether a character is a letter, a digit or a picture (emoji)."""
    category = unicodedata.category(letter)
    return category[0] in "LN" or category == "So"


def _fault(text: str) -> str:
    """Why a text cannot be typed as a word; empty if it can."""
    for letter in text:
        category = unicodedata.category(letter)
        if category in ("Cc", "Cs", "Zl", "Zp") or (category == "Cf" and letter not in JOINERS):
            return f"has the invisible character U+{ord(letter):04X} in it"
    if NAME in text:
        return f"has {NAME} in it, which stands for the word itself"
    return f"has more than {LONGEST} bytes" if len(text.encode(errors="replace")) > LONGEST else ""
