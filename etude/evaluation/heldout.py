"""Pictures of a set that are held out: what a method should have learned to draw, and numbers against them.

What all of them have in common is the lesson: the concept of a concept set, the style of a style set. A prompt with
[name] in it asks for the lesson and for whatever else it names; drawn pictures are compared with the held-out ones that
show most of that. Without a classifier nothing is known of what a picture shows, and they are compared with all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from etude.core.errors import InputError
from etude.core.placeholder import NAME, fill
from etude.evaluation import metrics
from etude.evaluation.classifier import Classifier, Labels
from etude.evaluation.features import ClipFeatures
from etude.evaluation.metrics import Array, significant

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")
PARTS = ("concept", "style", "background")


@dataclass(frozen=True)
class HeldOut:
    """Held-out pictures, their unit features [m, d], and what the caption of each says that it shows."""

    paths: Sequence[Path]
    features: Array
    shown: Sequence[Labels]
    classifier: Classifier | None

    @property
    def lesson(self) -> Labels:
        """What all of them show."""
        first, *others = self.shown
        common = set(first.items()).intersection(*(shown.items() for shown in others))
        return {part: label for part, label in first.items() if (part, label) in common}

    def expected(self, prompt: str) -> Labels:
        """What a picture of ``prompt`` should show, as far as it is said."""
        said = self.classifier.read(fill(prompt, "")) if self.classifier else {}
        return {**said, **self.lesson} if NAME in prompt else said

    def of(self, prompt: str) -> Array:
        """Features of the pictures that show most of what ``prompt`` asks for."""
        asked = set(self.expected(prompt).items())
        shared = [len(asked & set(shown.items())) for shown in self.shown]
        return self.features[[count == max(shared) for count in shared]]

    def numbers(self, prompts: Sequence[str], pictures: Array, paths: Sequence[Sequence[Path]]) -> dict[str, Array]:
        """Metric → [prompts, seeds] of drawn pictures: their features [prompts, seeds, d] and their files.

        An accuracy is 1 for a picture that shows what its prompt asks for, else 0; NaN where that is nothing. Where
        the lesson is a style, the style similarity compares a picture with all held-out ones. What they show differs,
        so more of it is more of what they have in common. NaN where a prompt asks for another style.
        """
        near = [metrics.image_similarity(row, self.of(prompt)) for prompt, row in zip(prompts, pictures, strict=True)]
        found = {"heldout_similarity": np.stack(near)}
        if self._teaches_style():
            alike = [metrics.image_similarity(row, self.features) for row in pictures]
            asked = [self.expected(prompt).get("style") == self.lesson["style"] for prompt in prompts]
            found["style_similarity"] = np.where(np.array(asked)[:, None], np.stack(alike), np.nan)
        seen = [self.classifier.named(row) if self.classifier else [] for row in paths]
        for part in self._classified():
            rows = []
            for prompt, row in zip(prompts, seen, strict=True):
                wanted = self.expected(prompt).get(part)
                rows.append([_right(one[part], wanted) for one in row])
            found[accuracy(part)] = np.array(rows)
        return found

    def ceiling(self, prompts: Sequence[str]) -> dict[str, float]:
        """What the real pictures score: with each other, prompt by prompt, and before the classifier."""
        alone = [metrics.leave_one_out(self.of(prompt)) for prompt in prompts]
        means = [scores[0] for scores in alone if scores]
        found = {"heldout_similarity": float(np.mean(means))} if means else {}
        if self._teaches_style() and (scores := metrics.leave_one_out(self.features)):
            found["style_similarity"] = scores[0]
        wanted = {part for prompt in prompts for part in self.expected(prompt)}
        seen = self.classifier.named(self.paths) if self.classifier else []
        for part in self._classified():
            right = [one[part] == shown[part] for one, shown in zip(seen, self.shown, strict=True) if part in shown]
            if part in wanted and right:
                found[accuracy(part)] = float(np.mean(right))
        return {name: significant(value) or 0.0 for name, value in found.items()}

    def _teaches_style(self) -> bool:
        return "style" in self.lesson and "concept" not in self.lesson

    def _classified(self) -> list[str]:
        return [part for part in PARTS if self.classifier and part in self.classifier.config.labels]


def accuracy(part: str) -> str:
    """The metric of a part."""
    return f"{part}_accuracy"


def _right(seen: str, wanted: str | None) -> float:
    return np.nan if wanted is None else float(seen == wanted)


def find_heldout(folder: Path, clip: ClipFeatures, classifier: Classifier | None) -> HeldOut | None:
    """The held-out pictures in ``folder``, each captioned by the .txt beside it or by its file name.

    None without such a folder; raises InputError for one that holds no pictures.
    """
    if not folder.is_dir():
        return None
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise InputError(folder, "holds no pictures", "put pictures there, or remove the folder")
    shown = [classifier.read(caption(path)) if classifier else {} for path in paths]
    return HeldOut(paths, clip.pictures(paths), shown, classifier)


def caption(path: Path) -> str:
    """The text beside a picture, or else the words of its file name; raises InputError for one that is no text."""
    beside = path.with_suffix(".txt")
    if not beside.exists():
        return re.sub(r"[-_]", " ", path.stem)
    try:
        return beside.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise InputError(beside, f"is not text in UTF-8 (byte {error.start})", "save it as UTF-8") from error
