"""Captions from the words of a file's name, where these describe the picture.

Cameras, phones and programs name files, too. They write numbers, dates and codes, with words of their own around them.
So a caption needs a word that the language has (CLIP's tokenizer reads it in two pieces at most) and that says more
than a program does (`program_words`). Beside a date, a long number, a code or a program's name it needs two such words
in a row: one may be the program's, too. A name of which this is not sure gives no caption.

A description is taken whole: "final" and "test" are left out behind it, and stay in "final fantasy" and "test tube".
"""

from __future__ import annotations

import gzip
import re
import unicodedata
from functools import cache
from pathlib import Path, PurePosixPath

from etude.captions import program_words

VOCABULARY = Path(__file__).parents[1] / "base/configs/clip_merges.txt.gz"  # a dep of *caption*
# A1111's rule: leading digits and dashes are a serial number. Not so in "3d render" and "4k".
NUMBER = re.compile(r"^(?!\d+[a-zA-Z])[-\d]+\s*")
# "name (1)", "name copy 2", "name - Kopie"
COPY = re.compile(
    r"\s*(\(\d+\)|\bcopy \d+|\(?(- )?\b(copy|kopie|kopia|copie|copia|копия|コピー)\)?)\s*$", re.IGNORECASE
)
CODE = "\0"  # stands for what a program wrote
CODES = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"  # a UUID
    r"|(?<!\d)\d{2,4}[-._]\d{1,2}[-._]\d{2,4}(?!\d)"  # a date, or a time of day
    r"|(?<!\d)\d{1,2}[.:]\d{2}(?:[.:]\d{2})?(?!\d)"
    # a site, or an app of Android
    r"|(?<![^\W_])(?:(?:com|org|net|www)\.[a-z][\w-]*(?:\.[a-z]\w*)*|[a-z][a-z-]+\.(?:com|org|net|io))(?![^\W_])",
    re.IGNORECASE,
)
TITLE = re.compile(rf"^.*{CODE}\s+-\s+(?=\D)")  # "DALL·E 2024-01-31 14.22.33 - a red fox"
LONG = 6  # digits from which on a number is a date or an id
IDENTITY = re.compile(r"(?!(?:19|20)\d\d$)\d{4,}")  # no year; behind a camera's word it only counts: IMG_2931
COUNTER = re.compile(r"0\d{3,}")  # programs count so, at the end of a name: frame_0001
BETWEEN = re.compile(r"[\s_\-+.,;~@=&()\[\]{}·]+")
GLUED = re.compile(r"(?P<before>\d{0,2})(?P<word>[^\W\d_]+(?:['’][^\W\d_]+)*)(?P<after>\d{0,2})")
SHORTEST = 3  # letters of a word that describes


def words_of_name(source: str) -> str | None:
    """``sub/0007-red_fox-2.jpg`` → ``red fox``; None where none describe: ``IMG-20240131-WA0001.jpg``."""
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
    """The words between those that a program wrote."""
    runs: list[list[str]] = [[]]
    for before, word in zip(["", *words], words, strict=False):
        numbered = IDENTITY.fullmatch(word) and before.lower() not in program_words.FILE_CODES
        if _is_code(word) or numbered or (word is words[-1] and COUNTER.fullmatch(word)):
            runs.append([])
        else:
            runs[-1].append(word)
    return runs


def _is_code(word: str) -> bool:
    """Whether a program wrote it: what CODES found, a long number, letters and digits mixed as in no word."""
    digits = sum(character.isdigit() for character in word)
    if word == CODE or digits >= LONG:
        return True
    return 0 < digits < len(word) and not GLUED.fullmatch(_letters(word))


def _trimmed(run: list[str], marked: bool) -> list[str]:
    """Without numbers, signs and programs' words at its ends, and without a number glued to its last word.

    Words that can begin a description are left out there only beside a number or a program's word (``marked``).
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
    """The words behind a number that has only words before it that say nothing: ``test 01 fox`` → ``01 fox``."""
    for place, word in enumerate(run):
        if word.isdecimal():
            return run[place:]
        if word.lower() not in program_words.NO_DESCRIPTION:
            break
    return run


def _is_left_out(word: str, words: frozenset[str]) -> bool:
    return word.lower() in words or not any(map(str.isalpha, word))


def _letters(word: str) -> str:
    """The word without the marks that some scripts put on their letters, which are no letters to Python."""
    return "".join(character for character in word if not unicodedata.category(character).startswith("M"))


def _describes(run: list[str], least: int) -> bool:
    """Whether ``least`` of the words describe; words that CLIP does not know do, where no code is: two of them."""
    words = [found["word"].lower() for word in run if (found := GLUED.fullmatch(_letters(word)))]
    words = [word for word in words if word not in program_words.SAYS_NOTHING]
    known = [word for word in words if _is_known(word)]
    if least > 1:
        return len(known) >= least
    foreign = [word for word in words if not word.isascii()]  # scripts without spaces say something with one word
    return bool(known or foreign) or sum(len(word) > 1 for word in words) > 1


def _is_known(word: str) -> bool:
    """Whether the language has it: CLIP's tokenizer has it whole, or in two pieces: ``cock`` and ``tail``."""
    begins, ends = _vocabulary()
    cuts = range(SHORTEST, len(word) - SHORTEST + 1)
    return (len(word) >= SHORTEST and word in ends) or any(word[:cut] in begins and word[cut:] in ends for cut in cuts)


@cache
def _vocabulary() -> tuple[frozenset[str], frozenset[str]]:
    """The pieces of CLIP's tokenizer that begin or continue a word, and those that end one or are a whole word."""
    lines = gzip.decompress(VOCABULARY.read_bytes()).decode("utf-8").splitlines()[1:]
    pieces = [line.replace(" ", "") for line in lines]
    begins = frozenset(piece for piece in pieces if not piece.endswith("</w>"))
    return begins, frozenset(piece.removesuffix("</w>") for piece in pieces if piece.endswith("</w>"))
