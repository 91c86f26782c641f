"""A captioner that names what CLIP sees: zero-shot classification over lists of words (Radford et al., 2021).

It knows no weights: features come in as unit vectors, so any CLIP will do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from etude.captions.settings import Words
from etude.core.errors import BaseError, InputError

if TYPE_CHECKING:
    from torch import Tensor

TEXTS = 64  # read at a time
Array = NDArray[np.floating]
Read = Callable[[Sequence[str]], Array]  # texts → unit features [n, d]


def read_words(path: Path | str) -> list[str]:
    """The words of a list: one a line, blank lines and lines that begin with # left out, each once."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError(
            path, "is missing", "name a list of words in `caption.words.file`, or choose another captioner"
        ) from None
    words = list(dict.fromkeys(line.strip() for line in lines if line.strip() and not line.startswith("#")))
    if not words:
        raise InputError(path, "holds no words", "write one a line, or choose another captioner")
    return words


def refuse_missing(model: Path) -> None:
    """Raise BaseError where the folder ``model`` holds no model of transformers."""
    if not (model / "config.json").is_file():
        raise BaseError(model, "is no CLIP folder: config.json is missing", "correct `caption.captioners`")


def recognises(model: Path) -> bool:
    """No: a CLIP also measures pictures, so that `etude base` opens it without its captioner."""
    return False


def describe_pictures(pictures: Iterable[Path], model: Path, settings: Words, device: str) -> list[str]:
    """A caption for each picture file, seen by the CLIP in the folder ``model``; raises EtudeError if it is none."""
    from etude.base.clip import Clip
    from etude.core.pictures import open_prepared

    words = read_words(settings.file)
    clip = Clip(model, device, "correct `caption.captioners`, or set it to {}")
    features = []
    for path in pictures:
        features.append(_unit(clip.see(open_prepared(path).convert("RGB"))))

    def read(texts: Sequence[str]) -> Array:
        groups = [texts[start : start + TEXTS] for start in range(0, len(texts), TEXTS)]
        return np.concatenate([_unit(clip.read(group)) for group in groups])

    return describe(np.stack(features), read, words, settings)


def _unit(features: Tensor) -> Array:
    lengths = features.double().norm(dim=-1, keepdim=True)
    return np.asarray((features.double() / lengths).numpy())


def describe(pictures: Array, read: Read, words: Sequence[str], settings: Words) -> list[str]:
    """A caption for each of ``pictures`` (unit features [n, d]): style, the ``top`` words, background.

    A word's feature is the mean over the templates, as in the paper. Styles and backgrounds are read as they stand.
    """
    features = _word_features(read, words, settings.templates)
    named = [", ".join(choice) for choice in _best(pictures, features, words, settings.top)]
    styles = _one_of(pictures, read, settings.styles)
    backgrounds = _one_of(pictures, read, settings.backgrounds)
    return [" ".join(filter(None, parts)) for parts in zip(styles, named, backgrounds, strict=True)]


def _word_features(read: Read, words: Sequence[str], templates: Sequence[str]) -> Array:
    features = []
    for template in templates:
        features.append(read([template.replace("{}", word) for word in words]))
    sums = sum(features)  # one after the other, as always: the order decides the last bits
    return np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True))


def _one_of(pictures: Array, read: Read, phrases: Sequence[str]) -> list[str]:
    if not phrases:
        return [""] * len(pictures)
    return [choice[0] for choice in _best(pictures, read(phrases), phrases, 1)]


def _best(pictures: Array, features: Array, names: Sequence[str], top: int) -> list[list[str]]:
    """For each picture the ``top`` names of the highest cosine similarity; of equal ones the first in the list."""
    order = np.argsort(-(pictures @ features.T), axis=1, kind="stable")
    best = []
    for row in order:
        best.append([names[index] for index in row[:top]])
    return best
