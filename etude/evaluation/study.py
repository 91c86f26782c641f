"""The evaluation of one method: draw the prompts with every checkpoint, and measure the pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from etude.base.settings import Sampling
from etude.core.placeholder import fill
from etude.evaluation.features import ClipFeatures
from etude.evaluation.heldout import HeldOut
from etude.evaluation.metrics import Array, MetricInputs, ceiling
from etude.evaluation.settings import Evaluate
from etude.evaluation.table import Row, best_row, measure
from etude.evaluation.validation import curve, loss_table
from etude.rendering.candidates import Candidate
from etude.rendering.pictures import Drawn, Request, ask, draw
from etude.rendering.real import real_pictures
from etude.rendering.renderer import Renderer

T = TypeVar("T")


class Track(Protocol):
    """Shows progress: passes items on, one after another, under a title."""

    def __call__(self, items: Sequence[T], title: str, /) -> Iterator[T]:
        """The items, one after another."""


@dataclass(frozen=True)
class Study:
    """The setup of an evaluation: the same prompts and seeds for the base and for every checkpoint."""

    renderer: Renderer
    clip: ClipFeatures
    name: str  # fills [name]
    prompts: Sequence[str]
    settings: Mapping[str, float]  # the method's `axes`
    sampling: Sampling
    evaluate: Evaluate
    data: Path  # data/<set>, with prepared/ and latents/
    heldout: HeldOut | None = None  # None: the set has no held-out pictures

    def requests(self, candidate: Candidate) -> list[Request]:
        """One request for each prompt."""
        seeds = self.evaluate.seeds
        return [ask(candidate, prompt, self.name, seeds, self.sampling, self.settings) for prompt in self.prompts]

    def texts(self) -> list[Array | None]:
        """CLIP's features [d] of each prompt; None if the prompt has no words besides the name."""
        read = [fill(prompt, self.evaluate.name) for prompt in self.prompts]
        return [self.clip.texts([text])[0] if re.search(r"\w", text) else None for text in read]

    def real(self) -> list[str]:
        """Ids of the training pictures."""
        return real_pictures(self.data / "prepared")


@dataclass(frozen=True)
class Examination:
    """The result: a row for each candidate, base first; losses by timestep; the real pictures' scores."""

    rows: Sequence[Row]
    best: Row
    curves: Mapping[Candidate, Sequence[float]]
    real: Mapping[str, float]
    drawn: Drawn


def examine(study: Study, candidates: Sequence[Candidate], track: Track) -> Examination:
    """Draw the pictures of all candidates and measure them. ``track`` shows progress."""
    names, method = study.real(), study.renderer.method
    table = loss_table(study.data / "latents", names, study.evaluate.validation, study.name, study.sampling.clip_skip)
    requests = [request for candidate in candidates for request in study.requests(candidate)]
    study.clip.forget()  # drawing has the device for itself
    drawn = draw(study.renderer, requests, lambda missing: track(missing, f"{method}: draw"))
    tracked = track(candidates, f"{method}: losses")
    curves = {candidate: curve(study.renderer, candidate, study.settings, table) for candidate in tracked}
    real = study.clip.pictures([study.data / "prepared" / f"{name}.png" for name in names])
    texts, heldout = study.texts(), study.heldout
    rows = []
    for candidate in track(candidates, f"{method}: measure"):
        paths = [drawn.paths[request] for request in study.requests(candidate)]
        features = np.stack([study.clip.pictures(row) for row in paths])
        against = heldout.numbers(study.prompts, features, paths) if heldout else {}
        loss = sum(curves[candidate]) / len(curves[candidate])
        rows.append(measure(candidate, MetricInputs(features, texts, real, loss), against))
    scores = ceiling(real) | (heldout.ceiling(study.prompts) if heldout else {})
    return Examination(rows, best_row(rows, study.evaluate.best), curves, scores, drawn)
