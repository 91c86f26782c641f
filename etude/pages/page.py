"""The page of one method: what it is, what it learned, and how well, in one file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from etude.core.files import read_json
from etude.core.placeholder import insert_name
from etude.metrics import BY_KEY, PAGE, REPORT, Metric, measured, shown_in
from etude.pages import words
from etude.pages.charts import Chart, draw
from etude.pages.pictures import inline
from etude.pages.programs import Export, rows
from etude.pages.readme import section
from etude.pages.sources import CHECKPOINTS, FILES, Checkpoint, Findings, caption_of

THUMB = 192  # pixels of the longest side of pictures beside each other
PUBLISHED = 512  # pixels: the picture size of the smallest published base model
ALONE = "It does not measure what a picture shows, so look at them too; with held-out pictures, that is measured."


def environment() -> Environment:
    """The Jinja environment of this folder's templates; every value is escaped, a missing value is an error."""
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    options = {"trim_blocks": True, "lstrip_blocks": True, "undefined": StrictUndefined, "keep_trailing_newline": True}
    return Environment(loader=loader, autoescape=True, **options)  # type: ignore[arg-type]


def render(found: Findings) -> str:
    """The page as HTML."""
    title, sentence = words.title(found.about, found.method)
    template = environment().get_template("page.html")
    columns = measured(row.values for row in found.checkpoints)
    return template.render(
        f=found,
        title=title,
        sentence=sentence,
        use=_use(found),
        tiles=list(_tiles(found)),
        best_name=candidate_name(found.best["checkpoint"], found.best["step"]),
        metric_names={name: metric.name for name, metric in BY_KEY.items()},
        pairs=[_pair(found, number) for number in range(len(found.asked["prompts"]))],
        training=[{"picture": inline(path, THUMB), "caption": caption_of(path)} for path in found.training],
        charts=list(_charts(found)),
        metrics=columns,
        table=[_row(found, checkpoint, columns) for checkpoint in found.checkpoints],
        grid=_grid(found.folder / "grid"),
        previews=[{"step": int(path.stem), "picture": inline(path)} for path in found.previews],
        files=[{"path": f.name, "size": words.size(f.size), "about": f.about} for f in found.files],
        choose=section(found.readme, "When to choose it"),
        told=section(found.readme, FILES),
        made=list(_made(found)),
        params=list(flatten(found.facts.get("params", {}))),
    )


def candidate_name(checkpoint: str, step: int | None) -> str:
    """The name of a row: ``untouched base``, ``step 300`` or ``final``."""
    if checkpoint == "base":
        return "untouched base"
    return f"step {step}" if step is not None else checkpoint


def _use(found: Findings) -> dict[str, Any]:
    """The box *Use it*: the exported checkpoint, a row for each program, and the command for another checkpoint."""
    written = found.exported
    top = [file for file in written["files"] if not file["path"].startswith(f"{CHECKPOINTS}/")]
    files: dict[str, list[str]] = {}  # by format
    for file in top:
        files.setdefault(file["format"], []).append(file["path"])
    forms = list(files)
    word = str(found.asked["name"])
    export = Export(found.method, found.facts, files, found.asked["prompts"][0], bool(word))
    steps = [str(row.step) for row in found.checkpoints if row.name not in ("base", "final")]
    others = [step for step in steps if step != str(written["step"])]
    return {
        "name": candidate_name(written["checkpoint"], written["step"]),
        "best": written["checkpoint"] == found.best["checkpoint"],
        "each": written["export"] == "all" and len(steps) > 1,
        "rows": list(rows(export)),
        "steps": steps,
        "command": f"etude convert {found.method}@{others[-1]} --to {forms[0]}" if others else "",
        "forms": forms[1:],
        "base": str(found.facts.get("base", "")),
        "small": int(found.facts.get("resolution", PUBLISHED)) < PUBLISHED,
    }


def _tiles(found: Findings) -> Iterator[dict[str, str]]:
    for metric in shown_in(PAGE):
        values = found.metrics.get(metric.key)
        if not values or "best" not in values:
            continue
        base = f"Untouched base {words.number(values['base'])}."
        told = [words.verdict(values, metric) if REPORT in metric.shown else base]
        told += [f"Real pictures {words.number(values['real'])}."] if "real" in values else []
        told += [ALONE] if metric.key == "image_similarity" and not found.held_out else []
        spread = words.spread(values.get("best_spread"))
        yield {
            "name": metric.name,
            "value": words.number(values["best"]),
            "small": spread,
            "more": " ".join(told),
        }
    for key, measure in found.asked.get("measures", {}).items():
        values = found.metrics[key]
        levels = {"base": "Without it", "real": "At most"}
        told = [f"{title} {words.number(values[name])}." for name, title in levels.items() if name in values]
        more = " ".join([*told, f"{measure['about'][:1].upper()}{measure['about'][1:]}."])
        yield {"name": measure["name"], "value": words.number(values["best"]), "small": "", "more": more}
    steps = found.facts.get("step")
    after = f"after {steps} steps" if steps else ""
    yield {"name": "Artifact", "value": words.size(found.size), "small": "", "more": after}


def _pair(found: Findings, number: int) -> dict[str, Any]:
    seeds = found.asked["seeds"][:4]
    shown: dict[str, Any] = {"prompt": insert_name(found.asked["prompts"][number], found.asked["name"])}
    for kind in ("base", "best"):
        shown[kind] = [inline(found.picture(kind, number, seed), THUMB) for seed in seeds]
    return shown


def _charts(found: Findings) -> Iterator[dict[str, Any]]:
    for metric in shown_in(PAGE):
        points = [
            (float(row.step), value, row.values.get(f"{metric.key}_spread"))
            for row in found.checkpoints
            if row.step is not None and (value := row.values.get(metric.key)) is not None
        ]
        if len(points) < 2:
            continue
        values = found.metrics.get(metric.key, {})
        levels = {title: values[name] for name, title in {"real": "real pictures"}.items() if name in values}
        chart = Chart(metric.name, points, levels, found.best["step"])
        yield {"title": metric.name, "about": metric.about, "svg": draw(chart)}
    if len(found.losses) > 1:
        curve = Chart("Training loss", [(step, loss, None) for step, loss in found.losses], dots=False)
        yield {
            "title": "Training loss",
            "about": "mean since the last point; timesteps are chosen at random",
            "svg": draw(curve),
        }


def _row(found: Findings, row: Checkpoint, columns: Sequence[Metric]) -> dict[str, Any]:
    kind = "base" if row.name == "base" else "best" if row.name == found.best["checkpoint"] else ""
    cells = [
        {"value": words.number(row.values.get(m.key)), "spread": words.spread(row.values.get(f"{m.key}_spread"))}
        for m in columns
    ]
    return {"name": candidate_name(row.name, row.step), "kind": kind, "cells": cells}


def _grid(folder: Path) -> dict[str, Any]:
    axes = read_json(folder / "manifest.json")["axes"]
    shown = zip(("columns", "rows", "one grid for each"), (axes["x"], axes["y"], axes["z"]), strict=True)
    told = "; ".join(f"{direction}: {axis['axis']}" for direction, axis in shown if axis)
    about = told[:1].upper() + told[1:]
    picture = inline(folder / "grid.png")
    with Image.open(folder / "grid.png") as file:
        width, height = file.size
    return {"about": about, "picture": picture, "width": width, "height": height}


def _made(found: Findings) -> Iterator[tuple[str, str]]:
    """How the artifact was made, from its facts: (title, value) pairs."""
    known = {"base": "base model", "family": "family", "seed": "seed", "precision": "precision", "device": "device"}
    for key, title in known.items():
        if key in found.facts:
            yield title, str(found.facts[key])
    sampling = found.asked["sampling"]
    yield "drawn with", ", ".join(f"{name} {value}" for name, value in sampling.items() if value not in ("", 0))
    for name, digest in found.facts.get("inputs", {}).items():
        yield f"SHA-256 of {name}", str(digest)
    versions = found.facts.get("versions", {})
    if versions:
        yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested parameters as (``training.steps``, value)."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
