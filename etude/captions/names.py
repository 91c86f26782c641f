"""Captions from the words of a file's name, if these describe the picture.

Cameras, phones and programs name files, too. They write numbers, dates and codes, and often words of their own. So
a caption needs a word of a language (CLIP's tokenizer reads it in at most two pieces) that is not typical of programs
(`program_words`). Next to a date, a long number, a code or a program's name it needs two such words in a row, because
one may come from the program. A doubtful name gives no caption.

A description is kept whole: "final" and "test" are removed after it, but stay in "final fantasy" and "test tube".
"""

from __future__ import annotations

import gzip
import re
import unicodedata
from functools import cache
from pathlib import Path, PurePosixPath

from etude.captions import program_words

VOCABULARY = Path(__file__).parents[1] / "base/configs/clip_merges.txt.gz"  # a dep of *caption*
# A1111's rule: leading digits and dashes are a serial number, but not in "3d render" and "4k".
NUMBER = re.compile(r"^(?!\d+[a-zA-Z])[-\d]+\s*")
# "name (1)", "name copy 2", "name - Kopie"
COPY = re.compile(
    r"\s*(\(\d+\)|\bcopy \d+|\(?(- )?\b(copy|kopie|kopia|copie|copia|копия|コピー)\)?)\s*$", re.IGNORECASE
)
CODE = "\0"  # replaces what a program wrote
CODES = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"  # a UUID
    r"|(?<!\d)\d{2,4}[-._]\d{1,2}[-._]\d{2,4}(?!\d)"  # a date, or a time of day
    r"|(?<!\d)\d{1,2}[.:]\d{2}(?:[.:]\d{2})?(?!\d)"
    # a site, or an app of Android
    r"|(?<![^\W_])(?:(?:com|org|net|www)\.[a-z][\w-]*(?:\.[a-z]\w*)*|[a-z][a-z-]+\.(?:com|org|net|io))(?![^\W_])",
    re.IGNORECASE,
)
TITLE = re.compile(rf"^.*{CODE}\s+-\s+(?=\D)")  # "DALL·E 2024-01-31 14.22.33 - a red fox"
LONG = 6  # a number of at least so many digits is a date or an id
IDENTITY = re.compile(r"(?!(?:19|20)\d\d$)\d{4,}")  # not a year; after a camera's word it is only a counter: IMG_2931
COUNTER = re.compile(r"0\d{3,}")  # a counter of programs, at the end of a name: frame_0001
BETWEEN = re.compile(r"[\s_\-+.,;~@=&()\[\]{}·]+")
GLUED = re.compile(r"(?P<before>\d{0,2})(?P<word>[^\W\d_]+(?:['’][^\W\d_]+)*)(?P<after>\d{0,2})")
SHORTEST = 3  # fewest letters of a word that describes


def words_of_name(source: str) -> str | None:
    """``sub/0007-red_fox-2.jpg`` → ``red fox``; None if no words describe: ``IMG-20240131-WA0001.jpg``."""
    name = unicodedata.normalize("NFC", PurePosixPath(source).stem)  # macOS writes é as two characters
    stem = CODES.sub(f" {CODE} ", COPY.sub("", NUMBER.sub("", name)))
    titled = TITLE.sub("", stem)
    words = [word for word in BETWEEN.split(titled) if word]
    lower = [word.lower() for word in words]
    if not program_words.PHOTOGRAPHER.isdisjoint(lower):
        return None
    runs = _runs(words)
    marked = len(runs) > 1 or not program_words.PROGRAMS.isdisjoint(lower)
    if marked and lower[0] in program_words.SCREENSHOTS:
        return None
    trimmed = [_trimmed(run, marked) for run in runs]
    return " ".join(word for run in trimmed if _describes(run, 2 if marked else 1) for word in run) or None


def _runs(words: list[str]) -> list[list[str]]:
    """The runs of words between those that a program wrote."""
    runs: list[list[str]] = [[]]
    for before, word in zip(["", *words], words, strict=False):
        numbered = IDENTITY.fullmatch(word) and before.lower() not in program_words.FILE_CODES
        if _is_code(word) or numbered or (word is words[-1] and COUNTER.fullmatch(word)):
            runs.append([])
        else:
            runs[-1].append(word)
    return runs


def _is_code(word: str) -> bool:
    """Whether a program wrote it: a match of CODES, a long number, or a mix of letters and digits that is no word."""
    digits = sum(character.isdigit() for character in word)
    if word == CODE or digits >= LONG:
        return True
    return 0 < digits < len(word) and not GLUED.fullmatch(_letters(word))


def _trimmed(run: list[str], marked: bool) -> list[str]:
    """The run without numbers, signs and programs' words at its ends, and without a number glued to its last word.

    Words that can begin a description are removed at its start only if the name has a code or a program (``marked``).
    """
    before = program_words.CUT_BEFORE if marked else program_words.ALWAYS_CUT
    while run and _is_left_out(run[-1], program_words.CUT_BEHIND):
        run = run[:-1]
    run = _behind_counter(run)
    while run and _is_left_out(run[0], before):
        run = run[1:]
    glued = GLUED.fullmatch(_letters(run[-1])) if run else None
    return [*run[:-1], run[-1].rstrip(glued["after"])] if glued and glued["after"] else run


def _behind_counter(run: list[str]) -> list[str]:
    """The words from a number on, if all words before it say nothing: ``test 01 fox`` → ``01 fox``."""
    for place, word in enumerate(run):
        if word.isdecimal():
            return run[place:]
        if word.lower() not in program_words.NO_DESCRIPTION:
            break
    return run


def _is_left_out(word: str, words: frozenset[str]) -> bool:
    return word.lower() in words or not any(map(str.isalpha, word))


def _letters(word: str) -> str:
    """The word without combining marks, which are no letters to Python, but part of the words of some scripts."""
    return "".join(character for character in word if not unicodedata.category(character).startswith("M"))


def _describes(run: list[str], least: int) -> bool:
    """Whether at least ``least`` words describe. In a name without codes, two words unknown to CLIP are enough, too."""
    words = [found["word"].lower() for word in run if (found := GLUED.fullmatch(_letters(word)))]
    words = [word for word in words if word not in program_words.SAYS_NOTHING]
    known = [word for word in words if _is_known(word)]
    if least > 1:
        return len(known) >= least
    foreign = [word for word in words if not word.isascii()]  # in scripts without spaces, one word is enough
    return bool(known or foreign) or sum(len(word) > 1 for word in words) > 1


def _is_known(word: str) -> bool:
    """Whether it is a word of a language: one piece of CLIP's tokenizer, or two: ``cock`` and ``tail``."""
    begins, ends = _vocabulary()
    cuts = range(SHORTEST, len(word) - SHORTEST + 1)
    return (len(word) >= SHORTEST and word in ends) or any(word[:cut] in begins and word[cut:] in ends for cut in cuts)


@cache
def _vocabulary() -> tuple[frozenset[str], frozenset[str]]:
    """The pieces of CLIP's tokenizer that begin or continue a word, and those that end a word or are a whole one."""
    lines = gzip.decompress(VOCABULARY.read_bytes()).decode("utf-8").splitlines()[1:]
    pieces = [line.replace(" ", "") for line in lines]
    begins = frozenset(piece for piece in pieces if not piece.endswith("</w>"))
    return begins, frozenset(piece.removesuffix("</w>") for piece in pieces if piece.endswith("</w>"))
