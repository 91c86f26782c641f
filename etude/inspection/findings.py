"""What a person should look at first: pictures and captions that are doubtful.

Each finding says by which rule it was found. Nothing here removes or changes a picture.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from etude.images.cuts import PLAIN
from etude.inspection.contents import Contents, Picture
from etude.inspection.looks import Measures

# Photos and drawings have values of 0.2 to 0.45; blurred by a Gaussian of 2 px, nearly all of them are above this.
BLURRED = 0.6
NEARLY_PLAIN = 4.0  # of the 255 levels: a picture with a smaller standard deviation shows hardly anything
HALF = 0.5  # of a picture's pixels
# What taggers and captioners call writing in a picture.
WRITING = re.compile(
    r"\b(watermarks?|signatures?|signed|logos?|subtitles?|subtitled|speech bubbles?|web address|url|username"
    r"|artist name|patreon|copyright (?:name|notice)|text|lettering|words? on|timestamp|dated)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Finding:
    """Pictures with the same doubt, the worst first, each with a text about what was found."""

    title: str
    about: str
    pictures: Mapping[str, str]


@dataclass(frozen=True)
class Rule:
    """A doubt about a picture: `find` returns how bad it is (larger is worse) and a text, or None if it is absent."""

    title: str
    about: str
    find: Callable[[Picture, Measures], tuple[float, str] | None]


def find_doubts(contents: Contents, measures: Mapping[str, Measures]) -> Iterator[Finding]:
    """The findings of a set, the most important first; a doubt about no picture is left out."""
    for rule in RULES:
        found = {}
        for name, picture in contents.pictures.items():
            if (doubt := rule.find(picture, measures[name])) is not None:
                found[name] = doubt
        if found:
            names = sorted(found, key=lambda name: (-found[name][0], name))
            yield Finding(rule.title, rule.about, {name: found[name][1] for name in names})


def _plain(picture: Picture, seen: Measures) -> tuple[float, str] | None:
    if PLAIN not in picture.notes and seen.contrast >= NEARLY_PLAIN:
        return None
    return -seen.contrast, f"contrast {seen.contrast:.1f}"


def _empty(picture: Picture, _: Measures) -> tuple[float, str] | None:
    empty = sum(not caption.text for caption in picture.captions.values())
    return (0.0, "no caption") if empty else None


def _long(picture: Picture, _: Measures) -> tuple[float, str] | None:
    longest = max((caption.length for caption in picture.captions.values()), key=lambda length: length.tokens)
    return (longest.tokens, f"{longest.tokens} tokens") if longest.cut else None


def _blurred(picture: Picture, seen: Measures) -> tuple[float, str] | None:
    if seen.blur < BLURRED or seen.contrast < NEARLY_PLAIN or picture.first["enlarged"]:
        return None
    return seen.blur, f"blur {seen.blur:.2f}"


def _enlarged(picture: Picture, _: Measures) -> tuple[float, str] | None:
    if not picture.first["enlarged"]:
        return None
    (width, height), (across, down) = picture.size, picture.target
    return max(across / width, down / height), f"{width}×{height} → {across}×{down}"


def _cut_off(picture: Picture, _: Measures) -> tuple[float, str] | None:
    return (-picture.kept, f"{picture.kept:.0%} is used") if picture.kept < HALF else None


def _writing(picture: Picture, _: Measures) -> tuple[float, str] | None:
    for caption in picture.captions.values():
        if match := WRITING.search(caption.text):
            return 0.0, f"“{match[0]}”"
    return None


def _noted(picture: Picture, _: Measures) -> tuple[float, str] | None:
    notes = [note for note in picture.notes if note != PLAIN]
    return (0.0, "; ".join(notes)) if notes else None


RULES = (
    Rule("One colour, or nearly", "They show hardly anything, so there is nothing to learn from them.", _plain),
    Rule("Without a caption", "Write a .txt beside the picture, or choose a captioner in params.yaml.", _empty),
    Rule(
        "Captions that are cut",
        "What is struck out below the pictures is not learned: a text encoder reads 75 tokens, times `text.chunks` in "
        "params.yaml. The words of a method's prompt around the caption count too.",
        _long,
    ),
    Rule(
        "Blurred",
        "By their pixels as they are trained on: few of their edges are sharp. Mist, night and smooth drawings may be "
        "meant to be so.",
        _blurred,
    ),
    Rule("Enlarged", "They have fewer pixels than are trained on. What is learned from them is soft.", _enlarged),
    Rule("Mostly cut off", "The crop shows less than half of the picture; what it leaves out is dark.", _cut_off),
    Rule(
        "Text or a watermark, by the caption",
        "Their captions name writing. Nothing looks for it in the pixels, so there may be more of it.",
        _writing,
    ),
    Rule("Notes of prepare", "What the stage prepare noted of them when it read them.", _noted),
)
