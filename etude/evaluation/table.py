"""The table of an evaluation: a row a checkpoint, the untouched base first; the best row; the summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from etude.core.errors import InputError
from etude.evaluation import metrics
from etude.evaluation.metrics import Array, significant
from etude.evaluation.settings import METRICS, Best
from etude.rendering.subjects import BASE, Subject

Values = Mapping[str, float | None]


@dataclass(frozen=True)
class Row:
    """One subject's numbers; ``spreads`` are standard deviations between seeds, where a metric has one."""

    subject: Subject
    values: Values
    spreads: Values = field(default_factory=dict)
    pictures: Mapping[str, Array] = field(default_factory=dict)  # metric → [prompts, seeds], of each picture


def measure(
    subject: Subject,
    pictures: Array,
    texts: Sequence[Array | None],
    real: Array,
    loss: float,
    against: Mapping[str, Array],
) -> Row:
    """Every metric of one subject.

    ``pictures`` [prompts, seeds, d] and ``real`` [m, d] are unit features; ``texts`` has one [d] a prompt, None where
    CLIP has nothing to read: such prompts do not count for the text alignment. ``against`` are the numbers against
    the truths, [prompts, seeds] each; a prompt with NaN does not count.
    """
    prompts, seeds, width = pictures.shape
    flat = pictures.reshape(-1, width)
    each: dict[str, Array] = {
        "image_similarity": metrics.image_similarity(flat, real).reshape(prompts, seeds),
        "nearest_similarity": metrics.nearest_similarity(flat, real).reshape(prompts, seeds),
        "text_alignment": _alignments(pictures, texts),
        **against,
    }
    values: dict[str, float | None] = dict.fromkeys(METRICS)
    spreads: dict[str, float | None] = {}
    for name, array in each.items():
        read = array[~np.isnan(array).any(axis=1)]
        values[name], spreads[name] = metrics.spread(read) if len(read) else (None, None)
    apart = [distance for prompt in pictures if (distance := metrics.diversity(prompt)) is not None]
    values["diversity"] = float(np.mean(apart)) if apart else None
    values["kid"], values["cmmd"] = metrics.kid(flat, real), metrics.cmmd(flat, real)
    values["validation_loss"] = loss
    return Row(subject, _rounded(values), _rounded(spreads), each)


def _alignments(pictures: Array, texts: Sequence[Array | None]) -> Array:
    """Cosine of each picture with its prompt [prompts, seeds]; NaN in the rows that have no text."""
    rows = [
        np.full(len(row), np.nan) if text is None else metrics.text_alignment(row, text[None])
        for row, text in zip(pictures, texts, strict=True)
    ]
    return np.stack(rows)


def _rounded(values: Values) -> dict[str, float | None]:
    return {name: significant(value) for name, value in values.items()}


def ceiling(real: Array) -> dict[str, float]:
    """What the real pictures score against each other, each left out in turn; empty for a single one."""
    scores = metrics.leave_one_out(real)
    apart = metrics.diversity(real)
    if scores is None or apart is None:
        return {}
    named = {"image_similarity": scores[0], "nearest_similarity": scores[1], "diversity": apart}
    return {name: float(f"{value:.6g}") for name, value in named.items()}


def best_row(rows: Sequence[Row], rule: Best) -> Row:
    """The checkpoint that the rule names; of equal ones the earliest. The untouched base cannot win.

    Raises InputError when no checkpoint has the metric.
    """
    measured = [row for row in rows if row.subject.path and row.values.get(rule.metric) is not None]
    if not measured:
        action = "choose another `evaluate.best.metric` in params.yaml"
        raise InputError("evaluate.best", f"no checkpoint has a `{rule.metric}`", action)
    sign = 1 if rule.direction == "max" else -1
    return max(measured, key=lambda row: sign * (row.values[rule.metric] or 0.0))  # max keeps the first of equals


def summary(rows: Sequence[Row], best: Row, real: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """For ``dvc metrics show``: metric → base and best with their spread, final, and real pictures."""
    base = next(row for row in rows if row.subject.name == BASE)
    final = next(row for row in rows if row.subject.final)
    made: dict[str, dict[str, float]] = {}
    for name in METRICS:
        entry: dict[str, float | None] = {"real": real.get(name)}
        for title, row in {"base": base, "best": best, "final": final}.items():
            entry[title] = row.values[name]
            if title != "final":  # mostly the best one: its spread stands in checkpoints.csv
                entry[f"{title}_spread"] = row.spreads.get(name)
        if known := {title: value for title, value in entry.items() if value is not None}:
            made[name] = known
    return made
