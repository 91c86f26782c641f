"""The page of one method: what it is, what it learned, and how well, in one file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from etude.core.files import read_json
from etude.core.placeholder import insert_name
from etude.metrics import BY_KEY, PAGE, REPORT, Metric, measured, shown_in
from etude.pages import words
from etude.pages.charts import Chart, draw
from etude.pages.environment import environment
from etude.pages.pictures import inline
from etude.pages.programs import Export, rows
from etude.pages.readme import section
from etude.pages.sources import CHECKPOINTS, FILES, Checkpoint, Findings, caption_of

THUMB = 192  # pixels of the longest side of pictures beside each other
PUBLISHED = 512  # pixels: the picture size of the smallest published base model
ALONE = "It does not measure what a picture shows, so look at them too; with held-out pictures, that is measured."


def render(findings: Findings) -> str:
    """The page as HTML."""
    title, sentence = words.title(findings.about, findings.method)
    template = environment().get_template("page.html")
    columns = measured(row.values for row in findings.checkpoints)
    return template.render(
        f=findings,
        title=title,
        sentence=sentence,
        use=_use(findings),
        tiles=list(_tiles(findings)),
        best_name=candidate_name(findings.best["checkpoint"], findings.best["step"]),
        metric_names={name: metric.name for name, metric in BY_KEY.items()},
        pairs=[_pair(findings, number) for number in range(len(findings.setup["prompts"]))],
        training=[{"picture": inline(path, THUMB), "caption": caption_of(path)} for path in findings.training],
        charts=list(_charts(findings)),
        metrics=columns,
        table=[_row(findings, checkpoint, columns) for checkpoint in findings.checkpoints],
        grid=_grid(findings.folder / "grid"),
        previews=[{"name": _moment(path), "picture": inline(path)} for path in findings.previews],
        files=[{"path": f.name, "size": words.size(f.size), "about": f.about} for f in findings.files],
        choose=section(findings.readme, "When to choose it"),
        files_text=section(findings.readme, FILES),
        made=list(_made(findings)),
        params=list(flatten(findings.facts.get("params", {}))),
    )


def candidate_name(checkpoint: str, step: int | None) -> str:
    """The name of a row: ``untouched base``, ``step 300`` or ``final``."""
    if checkpoint == "base":
        return "untouched base"
    return f"step {step}" if step is not None else checkpoint


def _moment(preview: Path) -> str:
    """The step at which a preview was drawn, by name; 0 is the untouched base."""
    step = int(preview.stem)
    return candidate_name("" if step else "base", step)


def _use(findings: Findings) -> dict[str, Any]:
    """The box *Use it*: the exported checkpoint, a row for each program, and the command for another checkpoint."""
    exported = findings.exported
    top = [file for file in exported["files"] if not file["path"].startswith(f"{CHECKPOINTS}/")]
    files: dict[str, list[str]] = {}  # by format
    for file in top:
        files.setdefault(file["format"], []).append(file["path"])
    forms = list(files)
    word = str(findings.setup["name"])
    export = Export(findings.method, findings.facts, files, findings.setup["prompts"][0], bool(word))
    steps = [str(row.step) for row in findings.checkpoints if row.name not in ("base", "final")]
    others = [step for step in steps if step != str(exported["step"])]
    return {
        "name": candidate_name(exported["checkpoint"], exported["step"]),
        "best": exported["checkpoint"] == findings.best["checkpoint"],
        "each": exported["export"] == "all" and len(steps) > 1,
        "rows": list(rows(export)),
        "steps": steps,
        "command": f"etude convert {findings.method}@{others[-1]} --to {forms[0]}" if others else "",
        "forms": forms[1:],
        "base": str(findings.facts.get("base", "")),
        "small": int(findings.facts.get("resolution", PUBLISHED)) < PUBLISHED,
    }


def _tiles(findings: Findings) -> Iterator[dict[str, str]]:
    for metric in shown_in(PAGE):
        values = findings.metrics.get(metric.key)
        if not values or "best" not in values:
            continue
        base = f"Untouched base {words.number(values['base'])}."
        sentences = [words.verdict(values, metric) if REPORT in metric.shown else base]
        sentences += [f"Real pictures {words.number(values['real'])}."] if "real" in values else []
        sentences += [ALONE] if metric.key == "image_similarity" and not findings.held_out else []
        spread = words.spread(values.get("best_spread"))
        yield {
            "name": metric.name,
            "value": words.number(values["best"]),
            "small": spread,
            "more": " ".join(sentences),
        }
    for key, measure in findings.setup.get("measures", {}).items():
        values = findings.metrics[key]
        levels = {"base": "Without it", "real": "At most"}
        sentences = [f"{title} {words.number(values[name])}." for name, title in levels.items() if name in values]
        more = " ".join([*sentences, f"{measure['about'][:1].upper()}{measure['about'][1:]}."])
        yield {"name": measure["name"], "value": words.number(values["best"]), "small": "", "more": more}
    steps = findings.facts.get("step")
    after = f"after {steps} steps" if steps else ""
    yield {"name": "Artifact", "value": words.size(findings.size), "small": "", "more": after}


def _pair(findings: Findings, number: int) -> dict[str, Any]:
    seeds = findings.setup["seeds"][:4]
    shown: dict[str, Any] = {"prompt": insert_name(findings.setup["prompts"][number], findings.setup["name"])}
    for kind in ("base", "best"):
        shown[kind] = [inline(findings.picture(kind, number, seed), THUMB) for seed in seeds]
    return shown


def _charts(findings: Findings) -> Iterator[dict[str, Any]]:
    for metric in shown_in(PAGE):
        points = [
            (float(row.step), value, row.values.get(f"{metric.key}_spread"))
            for row in findings.checkpoints
            if row.step is not None and (value := row.values.get(metric.key)) is not None
        ]
        if len(points) < 2:
            continue
        values = findings.metrics.get(metric.key, {})
        levels = {title: values[name] for name, title in {"real": "real pictures"}.items() if name in values}
        chart = Chart(metric.name, points, levels, findings.best["step"])
        yield {"title": metric.name, "about": metric.about, "svg": draw(chart)}
    if len(findings.losses) > 1:
        curve = Chart("Training loss", [(step, loss, None) for step, loss in findings.losses], dots=False)
        yield {
            "title": "Training loss",
            "about": "mean since the last point; timesteps are chosen at random",
            "svg": draw(curve),
        }


def _row(findings: Findings, row: Checkpoint, columns: Sequence[Metric]) -> dict[str, Any]:
    kind = "base" if row.name == "base" else "best" if row.name == findings.best["checkpoint"] else ""
    cells = [
        {"value": words.number(row.values.get(m.key)), "spread": words.spread(row.values.get(f"{m.key}_spread"))}
        for m in columns
    ]
    return {"name": candidate_name(row.name, row.step), "kind": kind, "cells": cells}


def _grid(folder: Path) -> dict[str, Any]:
    axes = read_json(folder / "manifest.json")["axes"]
    shown = zip(("columns", "rows", "one grid for each"), (axes["x"], axes["y"], axes["z"]), strict=True)
    directions = "; ".join(f"{direction}: {axis['axis']}" for direction, axis in shown if axis)
    about = directions[:1].upper() + directions[1:]
    picture = inline(folder / "grid.png")
    with Image.open(folder / "grid.png") as file:
        width, height = file.size
    return {"about": about, "picture": picture, "width": width, "height": height}


def _made(findings: Findings) -> Iterator[tuple[str, str]]:
    """How the artifact was made, from its facts: (title, value) pairs."""
    titles = {"base": "base model", "family": "family", "seed": "seed", "precision": "precision", "device": "device"}
    for key, title in titles.items():
        if key in findings.facts:
            yield title, str(findings.facts[key])
    sampling = findings.setup["sampling"]
    yield "drawn with", ", ".join(f"{name} {value}" for name, value in sampling.items() if value not in ("", 0))
    for name, digest in findings.facts.get("inputs", {}).items():
        yield f"SHA-256 of {name}", str(digest)
    versions = findings.facts.get("versions", {})
    if versions:
        yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested parameters as (``training.steps``, value)."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
