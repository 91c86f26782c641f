"""Counts of a set: tags or words, sizes of pictures, lengths and origins of captions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from etude.inspection.contents import Caption, Contents, Size
from etude.inspection.tokens import READ

SHOWN = 60  # tags or words
FEW = 10  # sizes that are listed one by one
SIDES = (0, 128, 256, 384, 512, 768, 1024, 1536, 2048, 4096)  # px: the lower bounds of the classes of sizes
LENGTHS = (1, 16, 31, 46, 61, READ + 1)  # tokens: the lower bounds of the classes of lengths
WORD = re.compile(r"[^\W\d_]{2,}(?:['’-][^\W\d_]+)*")
# Words that by themselves say nothing about a picture.
SMALL = frozenset((
    "an", "and", "are", "as", "at", "be", "by", "for", "from", "has", "have", "in", "into", "is", "it", "its", "of",
    "on", "or", "over", "that", "the", "their", "there", "this", "to", "under", "up", "very", "was", "while", "with",
))  # fmt: skip


@dataclass(frozen=True)
class Bars:
    """Counts by name, in the order in which they are shown; ``more`` is the number of names that were left out."""

    counts: Mapping[str, int]
    more: int = 0

    @property
    def largest(self) -> int:
        """The largest count; 1 without any."""
        return max(self.counts.values(), default=1) or 1


def are_tags(captions: Sequence[Caption]) -> bool:
    """Whether most of the captions are lists: at least three parts between commas, of about three words at most."""
    lists = 0
    for caption in captions:
        parts = _parts(caption.text)
        lists += len(parts) > 2 and len(caption.text.split()) <= 3 * len(parts)
    return 2 * lists > len(captions)


def count_tags(captions: Sequence[Caption]) -> Bars:
    """The number of captions that contain each tag, the most frequent first."""
    return _most_common(set(_parts(caption.text)) for caption in captions)


def count_words(captions: Sequence[Caption]) -> Bars:
    """The number of captions that contain each word, the most frequent first."""
    return _most_common(set(WORD.findall(caption.text.lower())) - SMALL for caption in captions)


def _parts(text: str) -> list[str]:
    return [part for part in map(str.strip, text.split(",")) if part]


def _most_common(sets: Iterable[set[str]]) -> Bars:
    counts: Counter[str] = Counter()
    for names in sets:
        counts.update(names)
    order = sorted(counts, key=lambda name: (-counts[name], name))
    return Bars({name: counts[name] for name in order[:SHOWN]}, max(len(order) - SHOWN, 0))


def count_origins(captions: Sequence[Caption]) -> Bars:
    """The number of captions of each origin."""
    return Bars(dict(Counter(caption.origin for caption in captions).most_common()))


def count_lengths(captions: Sequence[Caption]) -> Bars:
    """The number of captions in each class of lengths."""
    counts = {"empty": sum(not caption.length.tokens for caption in captions)}
    counts |= _classes([caption.length.tokens for caption in captions], LENGTHS)
    return Bars({name: count for name, count in counts.items() if count})


def count_sizes(sizes: Sequence[Size]) -> Bars:
    """The number of pictures of each size; if there are many sizes, by the shorter side."""
    exact = Counter(sizes)
    if len(exact) <= FEW:
        order = sorted(exact, key=lambda size: (size[0] * size[1], size))
        return Bars({f"{width}×{height}": exact[width, height] for width, height in order})
    counts = _classes(list(map(min, sizes)), SIDES)
    return Bars({f"{name} px": count for name, count in counts.items() if count})


def count_training_sizes(contents: Contents) -> Bars:
    """The number of training pictures (without copies) of each size, the most frequent first."""
    counts: Counter[Size] = Counter()
    for picture in contents.pictures.values():
        counts[picture.target] += len(picture.entries)
    order = sorted(counts, key=lambda size: (-counts[size], size))
    return Bars({f"{width}×{height}": counts[width, height] for width, height in order})


def _classes(values: Sequence[int], begins: Sequence[int]) -> dict[str, int]:
    """The number of values in each class; values below the first class are in none."""
    counts = {}
    for begin, end in pairwise(begins):
        counts[f"{begin}–{end - 1}"] = sum(begin <= value < end for value in values)
    counts[f"{begins[-1]} or more"] = sum(value >= begins[-1] for value in values)
    return counts
