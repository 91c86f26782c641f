"""The table of an evaluation: a row for each checkpoint, the untouched base first; the best row; the summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from etude.core.errors import InputError
from etude.evaluation import metrics
from etude.evaluation.metrics import Array, MetricInputs, significant
from etude.evaluation.settings import Best
from etude.metrics import BY_KEY
from etude.rendering.candidates import BASE, Candidate

Values = Mapping[str, float | None]


@dataclass(frozen=True)
class Row:
    """One candidate's numbers; ``spreads`` are standard deviations between seeds, for metrics that have one."""

    candidate: Candidate
    values: Values
    spreads: Values = field(default_factory=dict)
    pictures: Mapping[str, Array] = field(default_factory=dict)  # metric → [prompts, seeds], of each picture


def measure(candidate: Candidate, inputs: MetricInputs, held_out: Mapping[str, Array]) -> Row:
    """Every metric of one candidate.

    ``held_out`` are the numbers against held-out pictures, [prompts, seeds] each; a prompt with NaN does not count.
    """
    each = {name: compute(inputs) for name, compute in metrics.OF_A_PICTURE.items()} | dict(held_out)
    values: dict[str, float | None] = dict.fromkeys(BY_KEY)
    spreads: dict[str, float | None] = {}
    for name, array in each.items():
        complete = array[~np.isnan(array).any(axis=1)]
        values[name], spreads[name] = metrics.spread(complete) if len(complete) else (None, None)
    values |= {name: compute(inputs) for name, compute in metrics.OF_A_SET.items()}
    return Row(candidate, _rounded(values), _rounded(spreads), each)


def _rounded(values: Values) -> dict[str, float | None]:
    return {name: significant(value) for name, value in values.items()}


def best_row(rows: Sequence[Row], rule: Best) -> Row:
    """The checkpoint that the rule chooses; among equal values, the earliest. The untouched base is never chosen.

    Raises InputError if no checkpoint has the metric.
    """
    measured = [row for row in rows if row.candidate.path and row.values.get(rule.metric) is not None]
    if not measured:
        action = "choose another `evaluate.best.metric` in params.yaml"
        raise InputError("evaluate.best", f"no checkpoint has a `{rule.metric}`", action)
    sign = 1 if rule.direction == "max" else -1
    return max(measured, key=lambda row: sign * (row.values[rule.metric] or 0.0))  # max keeps the first of equals


def summary(rows: Sequence[Row], best: Row, real: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """For ``dvc metrics show``: metric → base and best with their spread, final, and real pictures."""
    base = next(row for row in rows if row.candidate.name == BASE)
    final = next(row for row in rows if row.candidate.final)
    metrics_by_key: dict[str, dict[str, float]] = {}
    for name in BY_KEY:
        entry: dict[str, float | None] = {"real": real.get(name)}
        for title, row in {"base": base, "best": best, "final": final}.items():
            entry[title] = row.values[name]
            if title != "final":  # final and best are often the same checkpoint; all spreads are in checkpoints.csv
                entry[f"{title}_spread"] = row.spreads.get(name)
        if numbers := {title: value for title, value in entry.items() if value is not None}:
            metrics_by_key[name] = numbers
    return metrics_by_key
