"""The report: the chosen methods side by side, from the data that the page stages wrote."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from etude.core.files import read_json
from etude.core.placeholder import insert_name
from etude.metrics import BY_KEY, REPORT, TABLE, Metric, measured, shown_in
from etude.pages import words
from etude.pages.dumbbell import Bar, draw
from etude.pages.environment import environment
from etude.pages.page import candidate_name
from etude.pages.pictures import inline, shrink
from etude.pages.sources import Findings

SEEDS = 2  # pictures of a prompt that a report shows of each method
SHOWN = 6  # training pictures


@dataclass(frozen=True)
class Entry:
    """One method in the report: the content of its page.json, and the folder of its pictures."""

    data: Mapping[str, Any]
    folder: Path  # artifacts/pages/<method>

    @property
    def method(self) -> str:
        """Its snake_case name."""
        return str(self.data["method"])

    @property
    def setup(self) -> Mapping[str, Any]:
        """The setup of its evaluation: base, image set, prompts, seeds, sampling …"""
        setup: Mapping[str, Any] = self.data["asked"]
        return setup

    @property
    def field(self) -> tuple[Any, ...]:
        """Methods share a table only if these values are equal, because otherwise their numbers cannot be compared."""
        setup = self.setup
        models = setup["base"], setup["clip"], setup["classifier"], setup["heldout"]
        return setup["set"], *models, setup["name"], tuple(setup["prompts"]), tuple(setup["seeds"])


def keep(findings: Findings, out: Path) -> dict[str, Any]:
    """The content of page.json, which the report reads; the report's pictures are written to ``out/pictures``."""
    title, sentence = words.title(findings.about, findings.method)
    (out / "pictures").mkdir(parents=True)
    for kind in ("base", "best"):
        for number in range(len(findings.setup["prompts"])):
            for seed in findings.setup["seeds"][:SEEDS]:
                picture = shrink(findings.picture(kind, number, seed), None)
                picture.save(out / "pictures" / f"{kind}-{number:02d}-{seed}.png")
    for number, path in enumerate(findings.training[:SHOWN]):
        shrink(path, None).save(out / "pictures" / f"training-{number}.png")
    files = [{"name": file.name, "size": file.size} for file in findings.files]
    named = {"method": findings.method, "title": title, "sentence": sentence, "size": findings.size, "files": files}
    return {**named, "asked": dict(findings.setup), "best": dict(findings.best), "metrics": dict(findings.metrics)}


def entries(pages: Path, methods: Sequence[str]) -> list[Entry]:
    """The chosen methods, in their order; other methods' pages are ignored. Raises InputError if a page is missing."""
    return [Entry(read_json(pages / method / "page.json"), pages / method) for method in methods]


def render(methods: Sequence[Entry]) -> str:
    """The report as HTML."""
    groups: dict[Any, list[Entry]] = {}
    for entry in methods:
        groups.setdefault(entry.field, []).append(entry)
    sections = list(map(_section, groups.values()))
    return environment().get_template("report.html").render(sections=sections, count=len(methods))


def rows(methods: Sequence[Entry]) -> Iterator[dict[str, Any]]:
    """The table as data: one row for each method, with the metrics of base and best, spreads, and the size in bytes."""
    for entry in methods:
        data = entry.data
        row: dict[str, Any] = {"method": entry.method, "set": entry.setup["set"], "step": data["best"]["step"]}
        for key in BY_KEY:
            values = data["metrics"].get(key, {})
            row |= {f"{key}{end}": values.get(f"best{end}") for end in ("", "_spread")}
            row[f"{key}_base"] = values.get("base")
        yield {**row, "artifact_bytes": data["size"]}


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row, for `dvc metrics show`."""
    return {name: value for name, value in row.items() if isinstance(value, int | float)}


def as_csv(table: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV with a header; a field is empty where nothing was measured."""
    text = StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def _section(group: Sequence[Entry]) -> dict[str, Any]:
    """Template values for a group of methods that were evaluated on the same setup."""
    setup = group[0].setup
    pictures = sorted(group[0].folder.glob("pictures/training-*.png"))
    metrics = [entry.data["metrics"] for entry in group]
    columns = [metric for metric in measured(metrics) if TABLE in metric.shown]
    charts = []
    for metric in shown_in(REPORT):
        if all(_measured(entry, metric.key) for entry in group):
            charts.append(_chart(group, metric))
    return {
        "setup": setup,
        "charts": charts,
        "columns": columns,
        "table": [_row(entry, columns) for entry in group],
        "methods": [entry.data for entry in group],
        "prompts": [_prompt(group, number) for number in range(len(setup["prompts"]))],
        "training": [inline(path, 192) for path in pictures],
    }


def _measured(entry: Entry, key: str) -> bool:
    return {"base", "best"} <= set(entry.data["metrics"].get(key, {}))


def _chart(group: Sequence[Entry], metric: Metric) -> dict[str, Any]:
    """One metric of all methods: the metric, its chart, and one sentence for each method."""
    values = [entry.data["metrics"][metric.key] for entry in group]
    verdicts = [(entry.data["title"], words.verdict(own, metric)) for entry, own in zip(group, values, strict=True)]
    svg = draw(metric.name, [_bar(entry, metric.key) for entry in group], values[0].get("real"))
    return {"metric": metric, "svg": svg, "verdicts": verdicts}


def _bar(entry: Entry, key: str) -> Bar:
    values = entry.data["metrics"][key]
    spreads = values.get("base_spread"), values.get("best_spread")
    return Bar(entry.data["title"], values["base"], values["best"], *spreads)


def _row(entry: Entry, columns: Sequence[Metric]) -> dict[str, Any]:
    cells = []
    for column in columns:
        values = entry.data["metrics"].get(column.key, {})
        cells.append(
            {
                "value": words.number(values.get("best")),
                "spread": words.spread(values.get("best_spread")),
                "base": words.number(values.get("base")),
            }
        )
    best = entry.data["best"]
    checkpoint = candidate_name(best["checkpoint"], best["step"])
    return {**entry.data, "cells": cells, "checkpoint": checkpoint, "size": words.size(entry.data["size"])}


def _prompt(group: Sequence[Entry], number: int) -> dict[str, Any]:
    setup = group[0].setup
    seeds = setup["seeds"][:SEEDS]

    def pictures(entry: Entry, kind: str) -> list[str]:
        return [inline(entry.folder / "pictures" / f"{kind}-{number:02d}-{seed}.png", 192) for seed in seeds]

    columns = [{"title": "untouched base", "pictures": pictures(group[0], "base")}]
    columns += [{"title": entry.data["title"], "pictures": pictures(entry, "best")} for entry in group]
    return {"text": insert_name(setup["prompts"][number], setup["name"]), "columns": columns}
