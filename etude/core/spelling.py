"""When two words are the same: if CLIP's tokenizer, which all Stable Diffusions use, reads them as equal.

It reads é as one character (NFC), each run of white space as one space, and each letter in lower case (without case
folding: `maß` is not `mass`, and `ſks`, with the old letter s, is not `sks`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence


def as_read(text: str) -> str:
    """``text`` as the tokenizer reads it. Two words are the same in prompts if this is equal."""
    return re.sub(r"\s+", " ", _small(unicodedata.normalize("NFC", text)))


def find_words(words: Sequence[str], text: str) -> Iterator[tuple[str, int | None]]:
    """The pieces of ``text`` in order, each with the index of the word that it is; None for what is between words.

    A word is found only as a separate word: `sks` is in "a sks, red" but not in "masks". Of two that begin at the same
    place, the longer is taken. Together, the pieces are ``text`` in NFC; an empty piece may be among them.
    """
    text = unicodedata.normalize("NFC", text)
    small = _small(text)
    places = [place for place, letter in enumerate(text) for _ in _small(letter)]  # İ in lower case is two characters
    places.append(len(text))
    longest_first = sorted(range(len(words)), key=lambda number: -len(words[number]))
    choices = "|".join(f"({_pattern(words[number])})" for number in longest_first)
    end = 0
    for match in re.finditer(rf"(?<!\w)(?:{choices})(?!\w)", small) if words else ():
        first, last = places[match.start()], places[match.end()]
        yield text[end:first], None
        yield text[first:last], longest_first[(match.lastindex or 1) - 1]
        end = last
    yield text[end:], None


def has_word(word: str, text: str) -> bool:
    """Whether ``text`` has the word as a separate word."""
    return any(number is not None for _, number in find_words([word], text))


def _small(text: str) -> str:
    """Lower case, letter by letter: Python's `lower` of a whole text makes a Σ at a word's end ς instead of σ."""
    return "".join(letter.lower() for letter in text)


def _pattern(word: str) -> str:
    return r"\s+".join(map(re.escape, as_read(word).split(" ")))
