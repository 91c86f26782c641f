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


def write(study: Study, examination: Examination, out: Path) -> None:
    """Fill ``artifacts/<method>/evaluation``."""
    final = next(row.candidate for row in examination.rows if row.candidate.final)
    own = own_measures(examination.best.candidate, final)
    metrics = summary(examination.rows, examination.best, examination.real)
    write_json(out / "metrics.json", metrics | {name: values for name, (values, _) in own.items()})
    write_json(out / "best.json", _best(study, examination))
    measures = {name: description for name, (_, description) in own.items()}
    write_json(out / "evaluation.json", _setup(study) | {"measures": measures})
    spreads = [name for name in BY_KEY if name in examination.rows[0].spreads]
    header = [*NAMED, *BY_KEY, *(f"{name}_spread" for name in spreads)]
    write_csv(out / "checkpoints.csv", header, [_row(row, spreads) for row in examination.rows])
    write_csv(out / "validation.csv", [*NAMED, "timestep", "loss"], list(_losses(study, examination)))
    measured = list(examination.rows[0].pictures)
    write_csv(out / "pictures.csv", [*PICTURE, *measured], list(_each(study, examination)))
    for title, row in {"base": examination.rows[0], "best": examination.best}.items():
        (out / "pictures" / title).mkdir(parents=True)
        for number, request in enumerate(study.requests(row.candidate)):
            for seed in request.seeds:
                picture = examination.drawn.of(request, seed)
                shutil.copyfile(picture, out / "pictures" / title / f"{number:02d}-{seed}.png")


def own_measures(best: Candidate, final: Candidate) -> dict[str, tuple[dict[str, float], dict[str, str]]]:
    """Measurements that a method made during its build: key → (values in the form of `summary`, name and description).

    They are in the artifact's fact ``measures``. Each has ``name``, ``about``, ``better`` ("higher", "lower" or ""),
    ``value``, and optionally ``base`` (the value without the method) and ``real`` (the largest possible value).
    """
    paths = {"best": best.path, "final": final.path}
    measures_of = {title: facts_of(path).get("measures", {}) for title, path in paths.items() if path}
    measures_by_key = {}
    for key, measure in measures_of.get("best", {}).items():
        values = {title: measures[key]["value"] for title, measures in measures_of.items() if key in measures}
        values |= {title: measure[title] for title in ("base", "real") if title in measure}
        measures_by_key[key] = (values, {name: measure[name] for name in ("name", "about", "better")})
    return measures_by_key


def _best(study: Study, examination: Examination) -> dict[str, Any]:
    """The rule, the checkpoint that it chose, and the metric's value for that checkpoint and for the base."""
    rule = study.evaluate.best
    chosen = {"checkpoint": examination.best.candidate.name, "step": examination.best.candidate.step}
    values = {"value": examination.best.values[rule.metric], "base": examination.rows[0].values[rule.metric]}
    return {**rule.model_dump(), **chosen, **values}


def _setup(study: Study) -> dict[str, Any]:
    """The setup of the measurements."""
    setup = {"name": study.name, "prompts": list(study.prompts), "seeds": sorted(study.evaluate.seeds)}
    measured = {"clip": study.evaluate.clip, "real": len(study.real()), "base": study.renderer.path.as_posix()}
    heldout, classifier = study.heldout, study.evaluate.classifier if study.evaluate.classify else ""
    measured |= {"heldout": len(heldout.paths) if heldout else 0, "classifier": classifier if heldout else ""}
    return {**setup, **measured, "set": study.data.name, "sampling": study.sampling.model_dump()}


def _row(row: Row, spreads: Sequence[str]) -> list[Any]:
    values = [row.values[name] for name in BY_KEY]
    return [row.candidate.name, row.candidate.step, *values, *(row.spreads[name] for name in spreads)]


def _losses(study: Study, examination: Examination) -> Iterator[list[Any]]:
    for candidate, values in examination.curves.items():
        for step, loss in zip(study.evaluate.validation.timesteps, values, strict=True):
            yield [candidate.name, candidate.step, step, significant(loss)]


def _each(study: Study, examination: Examination) -> Iterator[list[Any]]:
    """One row for each picture, with its numbers; a picture is identified by the digest of its pixels."""
    for row in examination.rows:
        for number, request in enumerate(study.requests(row.candidate)):
            for place, seed in enumerate(request.seeds):
                digest = pixel_digest(open_picture(examination.drawn.of(request, seed)))
                values = [float(array[number, place]) for array in row.pictures.values()]
                numbers = [None if math.isnan(value) else significant(value) for value in values]
                yield [digest, row.candidate.name, study.prompts[number], seed, *numbers]


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A CSV file with a header; None is an empty field."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    with atomic_path(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="\n")
