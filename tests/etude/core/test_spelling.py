"""When two words are one: as the tokenizer reads them."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from etude.base.tokenizer import load_tokenizer
from etude.core.spelling import as_read, find_words, has_word

TEXTS = [
    "maß",
    "mass",
    "MASS",
    "MAẞ",
    "ſks",
    "sks",
    "Sks",
    "\u212aS",
    "e\u0301",
    "É",
    "ΟΔΟΣ",
    "οδος",
    "İx",
    "ﬁ",
    "a \t\u3000b",
]


def test_a_word_is_read_as_the_tokenizer_reads_it() -> None:
    tokenizer = load_tokenizer(Path("none"), "!")
    letters = [letter for letter in map(chr, range(0x20, 0x3000)) if unicodedata.category(letter) not in ("Cn", "Cs")]
    for text in [*TEXTS, "a".join(letters)]:
        assert as_read(text) == tokenizer.backend_tokenizer.normalizer.normalize_str(text)


@pytest.mark.parametrize(
    ("word", "text", "found"),
    [
        ("sks", "a SKS, red", True),
        ("sks", "masks, sks2", False),
        ("sks", "a ſks", False),
        ("maß", "a MAẞ", True),
        ("maß", "a mass", False),
        ("caf\u00e9", "a cafe\u0301", True),
        ("cafe\u0301", "a CAF\u00c9", True),
        ("my owl", "of My \n OWL", True),
        ("<owl>", "a<Owl>b", False),
        ("🦉", "a 🦉, red", True),
    ],
)
def test_a_word_is_found_where_it_stands_alone(word: str, text: str, found: bool) -> None:
    assert has_word(word, text) == found


def test_the_pieces_of_a_text_are_the_text() -> None:
    pieces = list(find_words(["İx", "my owl", "my owl's friend"], "an İ is i̇X and My Owl's friend; my  owl"))
    assert "".join(piece for piece, _ in pieces) == "an İ is i̇X and My Owl's friend; my  owl"
    assert [piece for piece in pieces if piece[1] is not None] == [("i̇X", 0), ("My Owl's friend", 2), ("my  owl", 1)]
