"""A captioner by CLIP: zero-shot classification over lists of words (Radford et al., 2021).

`Phrases` gets features as unit vectors, so any CLIP can be used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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
    """The words of a list, one on each line, without duplicates, blank lines and lines that begin with #."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError(
            path, "is missing", "set `caption.words.file` to a text file with words, or choose another captioner"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(path, f"is not text in UTF-8 (byte {error.start})", "save it as UTF-8") from error
    words = list(dict.fromkeys(line.strip() for line in lines if line.strip() and not line.startswith("#")))
    if not words:
        raise InputError(path, "has no words", "write one word on each line, or choose another captioner")
    return words


def refuse_missing(model: Path) -> None:
    """Raise BaseError if the folder ``model`` contains no model of transformers."""
    if not (model / "config.json").is_file():
        raise BaseError(
            model,
            "is no CLIP folder: config.json is missing",
            "set `caption.captioners.clip` to the folder of a CLIP model",
        )


def recognises(model: Path) -> bool:
    """Always False: a CLIP is not only a captioner but also measures pictures, so `etude base` opens it by itself."""
    return False


def describe_pictures(pictures: Iterable[Path], model: Path, settings: Words, device: str) -> Iterator[str]:
    """A caption for each picture file, by the CLIP in the folder ``model``; raises EtudeError if it is no CLIP."""
    from etude.base.clip import Clip
    from etude.core.pictures import open_prepared

    words = read_words(settings.file)
    clip = Clip(
        model, device, "set `caption.captioners.clip` to the folder of a CLIP model, or `caption.captioners` to {}"
    )

    def read(texts: Sequence[str]) -> Array:
        groups = [texts[start : start + TEXTS] for start in range(0, len(texts), TEXTS)]
        return np.concatenate([_unit(clip.read(group)) for group in groups])

    known = Phrases(read, words, settings)
    for path in pictures:
        yield known.describe(_unit(clip.see(open_prepared(path).convert("RGB"))))


def _unit(features: Tensor) -> Array:
    lengths = features.double().norm(dim=-1, keepdim=True)
    return np.asarray((features.double() / lengths).numpy())


class Phrases:
    """The words and phrases that describe a picture, each with its features.

    A word's feature is the mean over the templates, as in the paper. Styles and backgrounds are encoded alone.
    """

    def __init__(self, read: Read, words: Sequence[str], settings: Words) -> None:
        self._top = settings.top
        self._words = (words, _word_features(read, words, settings.templates))
        self._styles = (settings.styles, read(settings.styles) if settings.styles else None)
        self._backgrounds = (settings.backgrounds, read(settings.backgrounds) if settings.backgrounds else None)

    def describe(self, picture: Array) -> str:
        """The caption of a picture (unit features [d]): style, the ``top`` words, background."""
        named = ", ".join(_best(picture, *self._words, self._top))
        parts = (*_best(picture, *self._styles, 1), named, *_best(picture, *self._backgrounds, 1))
        return " ".join(parts)


def _word_features(read: Read, words: Sequence[str], templates: Sequence[str]) -> Array:
    features = []
    for template in templates:
        features.append(read([template.replace("{}", word) for word in words]))
    sums = sum(features)  # always in this order, because it decides the last bits
    return np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True))


def _best(picture: Array, names: Sequence[str], features: Array | None, top: int) -> list[str]:
    """The ``top`` names with the highest cosine similarity; among equal ones, the first in the list."""
    if features is None:
        return []
    order = np.argsort(-(features @ picture), kind="stable")
    return [names[index] for index in order[:top]]
