"""The files of an evaluation: numbers for DVC and for people, and the pictures for the pages."""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from etude.core.artifact import facts_of
from etude.core.files import atomic_path, write_json
from etude.evaluation.metrics import significant
from etude.evaluation.study import Examination, Study
from etude.evaluation.table import Row, summary
from etude.metrics import BY_KEY
from etude.rendering.candidates import Candidate
from etude.rendering.pixels import PICTURE, open_picture, pixel_digest

NAMED = ("checkpoint", "step")


def write(study: Study, found: Examination, out: Path) -> None:
    """Fill ``artifacts/<method>/evaluation``."""
    own = own_measures(found.best.candidate, next(row.candidate for row in found.rows if row.candidate.final))
    metrics = summary(found.rows, found.best, found.real)
    write_json(out / "metrics.json", metrics | {name: values for name, (values, _) in own.items()})
    write_json(out / "best.json", _best(study, found))
    write_json(out / "evaluation.json", _asked(study) | {"measures": {name: told for name, (_, told) in own.items()}})
    spreads = [name for name in BY_KEY if name in found.rows[0].spreads]
    header = [*NAMED, *BY_KEY, *(f"{name}_spread" for name in spreads)]
    write_csv(out / "checkpoints.csv", header, [_row(row, spreads) for row in found.rows])
    write_csv(out / "validation.csv", [*NAMED, "timestep", "loss"], list(_losses(study, found)))
    measured = list(found.rows[0].pictures)
    write_csv(out / "pictures.csv", [*PICTURE, *measured], list(_each(study, found)))
    for title, row in {"base": found.rows[0], "best": found.best}.items():
        (out / "pictures" / title).mkdir(parents=True)
        for number, request in enumerate(study.requests(row.candidate)):
            for seed in request.seeds:
                shutil.copyfile(found.drawn.of(request, seed), out / "pictures" / title / f"{number:02d}-{seed}.png")


def own_measures(best: Candidate, final: Candidate) -> dict[str, tuple[dict[str, float], dict[str, str]]]:
    """Measurements that a method made during its build: key → (values in the form of `summary`, name and description).

    They are in the artifact's fact ``measures``. Each has ``name``, ``about``, ``better`` ("higher", "lower" or ""),
    ``value``, and optionally ``base`` (the value without the method) and ``real`` (the largest possible value).
    """
    paths = {"best": best.path, "final": final.path}
    found = {title: facts_of(path).get("measures", {}) for title, path in paths.items() if path}
    told = {}
    for key, measure in found.get("best", {}).items():
        values = {title: measures[key]["value"] for title, measures in found.items() if key in measures}
        values |= {title: measure[title] for title in ("base", "real") if title in measure}
        told[key] = (values, {name: measure[name] for name in ("name", "about", "better")})
    return told


def _best(study: Study, found: Examination) -> dict[str, Any]:
    """The rule, the checkpoint that it chose, and the metric's value for that checkpoint and for the base."""
    rule = study.evaluate.best
    chosen = {"checkpoint": found.best.candidate.name, "step": found.best.candidate.step}
    values = {"value": found.best.values[rule.metric], "base": found.rows[0].values[rule.metric]}
    return {**rule.model_dump(), **chosen, **values}


def _asked(study: Study) -> dict[str, Any]:
    """The setup of the measurements."""
    asked = {"name": study.name, "prompts": list(study.prompts), "seeds": sorted(study.evaluate.seeds)}
    measured = {"clip": study.evaluate.clip, "real": len(study.real()), "base": study.renderer.path.as_posix()}
    heldout, classifier = study.heldout, study.evaluate.classifier if study.evaluate.classify else ""
    measured |= {"heldout": len(heldout.paths) if heldout else 0, "classifier": classifier if heldout else ""}
    return {**asked, **measured, "set": study.data.name, "sampling": study.sampling.model_dump()}


def _row(row: Row, spreads: Sequence[str]) -> list[Any]:
    values = [row.values[name] for name in BY_KEY]
    return [row.candidate.name, row.candidate.step, *values, *(row.spreads[name] for name in spreads)]


def _losses(study: Study, found: Examination) -> Iterator[list[Any]]:
    for candidate, values in found.curves.items():
        for step, loss in zip(study.evaluate.validation.timesteps, values, strict=True):
            yield [candidate.name, candidate.step, step, significant(loss)]


def _each(study: Study, found: Examination) -> Iterator[list[Any]]:
    """One row for each picture, with its numbers; a picture is identified by the digest of its pixels."""
    for row in found.rows:
        for number, request in enumerate(study.requests(row.candidate)):
            for place, seed in enumerate(request.seeds):
                digest = pixel_digest(open_picture(found.drawn.of(request, seed)))
                values = [float(array[number, place]) for array in row.pictures.values()]
                known = [None if math.isnan(value) else significant(value) for value in values]
                yield [digest, row.candidate.name, study.prompts[number], seed, *known]


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A CSV file with a header; None is an empty field."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    with atomic_path(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
