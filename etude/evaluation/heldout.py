"""Held-out pictures of a set: they show what a method should have learned to draw, and drawn pictures are compared
with them.

The *lesson* is what all of them have in common: the concept of a concept set, the style of a style set. A prompt with
[name] should give a picture that shows the lesson and everything else that the prompt names. A drawn
picture is compared with the held-out pictures that show most of this; without a classifier, with all of them.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from etude.core.beside.captions import CARDS, Captions
from etude.core.errors import EtudeWarning, InputError
from etude.core.placeholder import NAME, fill
from etude.evaluation import metrics
from etude.evaluation.classifier import Classifier, Labels
from etude.evaluation.features import ClipFeatures
from etude.evaluation.metrics import Array, significant
from etude.rendering.pixels import FORMATS

PARTS = ("concept", "style", "background")


@dataclass(frozen=True)
class HeldOut:
    """Held-out pictures, their unit features [m, d], and the labels (``shown``) read from the caption of each."""

    paths: Sequence[Path]
    features: Array
    shown: Sequence[Labels]
    classifier: Classifier | None

    @property
    def lesson(self) -> Labels:
        """The labels that all held-out pictures have in common."""
        first, *others = self.shown
        common = set(first.items()).intersection(*(shown.items() for shown in others))
        return {part: label for part, label in first.items() if (part, label) in common}

    def expected(self, prompt: str) -> Labels:
        """The labels that a picture of ``prompt`` should show: those in the text, and the lesson if [name] is in it."""
        labels = self.classifier.read_labels(fill(prompt, "")) if self.classifier else {}
        return {**labels, **self.lesson} if NAME in prompt else labels

    def of(self, prompt: str) -> Array:
        """Features of the held-out pictures that have most of the labels expected for ``prompt``."""
        expected = set(self.expected(prompt).items())
        shared = [len(expected & set(shown.items())) for shown in self.shown]
        return self.features[[count == max(shared) for count in shared]]

    def numbers(self, prompts: Sequence[str], pictures: Array, paths: Sequence[Sequence[Path]]) -> dict[str, Array]:
        """Metric → values [prompts, seeds] of drawn pictures, from their features [prompts, seeds, d] and their files.

        An accuracy is 1 for a picture that shows the label expected for its prompt, otherwise 0; NaN if there is none.
        If the lesson is a style, the style similarity compares each picture with all held-out ones: they show
        different things in one style, so a higher value means more of that style. NaN if a prompt names another style.
        """
        near = [metrics.image_similarity(row, self.of(prompt)) for prompt, row in zip(prompts, pictures, strict=True)]
        values = {"heldout_similarity": np.stack(near)}
        if self._teaches_style():
            alike = [metrics.image_similarity(row, self.features) for row in pictures]
            same_style = [self.expected(prompt).get("style") == self.lesson["style"] for prompt in prompts]
            values["style_similarity"] = np.where(np.array(same_style)[:, None], np.stack(alike), np.nan)
        predicted = [self.classifier.classify_files(row) if self.classifier else [] for row in paths]
        for part in self._classified():
            rows = []
            for prompt, row in zip(prompts, predicted, strict=True):
                wanted = self.expected(prompt).get(part)
                rows.append([_right(one[part], wanted) for one in row])
            values[accuracy(part)] = np.array(rows)
        return values

    def ceiling(self, prompts: Sequence[str]) -> dict[str, float]:
        """The same metrics of the held-out pictures themselves: compared with each other, and classified."""
        alone = [metrics.leave_one_out(self.of(prompt)) for prompt in prompts]
        means = [scores[0] for scores in alone if scores]
        values = {"heldout_similarity": float(np.mean(means))} if means else {}
        if self._teaches_style() and (scores := metrics.leave_one_out(self.features)):
            values["style_similarity"] = scores[0]
        wanted = {part for prompt in prompts for part in self.expected(prompt)}
        predicted = self.classifier.classify_files(self.paths) if self.classifier else []
        for part in self._classified():
            right = []
            for one, shown in zip(predicted, self.shown, strict=True):
                if part in shown:
                    right.append(one[part] == shown[part])
            if part in wanted and right:
                values[accuracy(part)] = float(np.mean(right))
        return {name: significant(value) or 0.0 for name, value in values.items()}

    def _teaches_style(self) -> bool:
        return "style" in self.lesson and "concept" not in self.lesson

    def _classified(self) -> list[str]:
        return [part for part in PARTS if self.classifier and part in self.classifier.config.labels]


def accuracy(part: str) -> str:
    """The key of a part's accuracy in the list of metrics."""
    return f"{part}_accuracy"


def _right(predicted: str, wanted: str | None) -> float:
    return np.nan if wanted is None else float(predicted == wanted)


def find_heldout(folder: Path, clip: ClipFeatures, classifier: Classifier | None) -> HeldOut | None:
    """The held-out pictures in ``folder``; captions are found as for training pictures, or taken from file names.

    None if there is no such folder; raises InputError if the folder contains no pictures, or a damaged caption.
    """
    if not folder.is_dir():
        return None
    here = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    formats = Image.registered_extensions()
    paths = [path for path in here if formats.get(path.suffix.lower()) in FORMATS]
    if not paths:
        raise InputError(folder, "holds no pictures", "put pictures there (PNG, JPEG, WebP), or remove the folder")
    names = [path.name for path in paths]
    captions = Captions(folder, [path.name for path in here if path.is_file()], names)
    existing = {name: captions.find([name]) for name in names}
    _check(captions)
    used = {*names, *(found.file for found in existing.values() if found)}
    _warn_of_others(folder, here, used)
    texts = [found.text if found else _words(name) for name, found in existing.items()]
    shown = [classifier.read_labels(text) if classifier else {} for text in texts]
    return HeldOut(paths, clip.pictures(paths), shown, classifier)


def _check(captions: Captions) -> None:
    for file, fault in captions.faults.items():
        raise InputError(captions.folder / file, fault, "correct this file: it describes held-out pictures")
    for file, note in captions.notes.items():
        warnings.warn(f"{captions.folder / file}: {note}", EtudeWarning, stacklevel=3)


def _warn_of_others(folder: Path, here: Sequence[Path], used: Collection[str]) -> None:
    """Warn of files in the folder that are neither a readable picture, nor a caption of one, nor a card."""
    others = [path for path in here if path.name not in used and path.stem.lower() not in CARDS]
    if others:
        kinds = Counter(f"{path.name}/" if path.is_dir() else path.suffix or path.name for path in others)
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(8))
        message = f"{folder}: {len(others)} files are not used: {counts}. Next: save pictures as PNG or JPEG"
        warnings.warn(message, EtudeWarning, stacklevel=2)


def _words(name: str) -> str:
    return re.sub(r"[-_]", " ", Path(name).stem)
