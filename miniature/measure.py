"""Measure the miniature: the whole table of its card, real pictures beside drawn ones.

Without ``--model``, what the stages trained is measured. ``make miniature-measure`` measures the published model: it
needs no out of any stage, draws the real pictures from the icons kept in the repository, and writes to
``logs/miniature``. Seconds are never written to an out: they are in ``logs/miniature`` in both cases.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from etude.base.base import Base
from etude.base.loading import load_base
from etude.base.settings import Sampling
from etude.core.files import atomic_path, replace_folder, write_json
from etude.core.params import Schema, pick
from etude.core.randomness import make_deterministic
from etude.evaluation.classifier import Classifier, Labels
from miniature import table
from miniature.assembly import PUBLISHED_CLASSIFIER, assemble_all
from miniature.draws import randomiser
from miniature.kept import draw_pictures
from miniature.render import Render
from miniature.stage import tile
from miniature.trials import Asked, Drawn, ask, confusions, draw_all, hits, real_pictures, reconstruction, retrieval
from miniature.world import FOLDER, OUT, Pictures, World, read_world
from tasks.shell import run
from tasks.shell.console import progress, say


class Measure(Schema):
    """The ``measure`` block of params.yaml."""

    captions: int
    held_out: int
    batch: int
    alone: int
    seed: int
    threads: int
    sampling: Sampling
    bars: table.Bars


class StageParams(Schema):
    """The part of params.yaml that this stage reads."""

    measure: Measure
    render: Render


def measure(model: Path | None = None, seed: int | None = None) -> None:
    """Measure the folder MODEL, or what the stages trained; SEED draws other captions and other noise."""
    stage_params, world = pick(FOLDER / "params.yaml", StageParams), read_world()
    settings = stage_params.measure if seed is None else stage_params.measure.model_copy(update={"seed": seed})
    make_deterministic(settings.threads)
    pictures = draw_pictures(world, stage_params.render, lambda items: progress(items, "real pictures"))
    if model:
        found = measured(model, pictures, world, settings)
        write(table.LOGS, found)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            assemble_all(Path(temporary))
            found = measured(Path(temporary), pictures, world, settings)
        with replace_folder(OUT / "measure") as out:
            write(out, found)
    write_json(table.LOGS / "seconds.json", found.seconds)
    say(table.markdown(found.report, settings.bars, found.seconds))


@dataclass(frozen=True)
class Found:
    """The report, which is the same for equal inputs, and results that are only for people to look at."""

    report: dict[str, Any]
    wrong: Mapping[str, Any]  # caption → what the classifier named instead
    shown: list[Image.Image]
    seconds: dict[str, float]


def measured(model: Path, pictures: Pictures, world: World, settings: Measure) -> Found:
    """Run every trial, one after another, and print what each found."""
    psnr = reconstruction(model, pictures, world)
    say(f"autoencoder: {psnr:.2f} dB on held-out concepts")
    found = retrieval(model, pictures, world, settings.seed, progress)
    say(f"CLIP: {found:.1%} of the captions find their concept")
    draw = randomiser(settings.seed, "held out")
    known = captions(pictures, world, settings)
    unknown = ask(pictures, list(world.held_out_concepts) * settings.held_out, world, draw)
    drawn, others, seconds = draw_everything(load_base(model), known, unknown, settings)
    classifier = Classifier(model / PUBLISHED_CLASSIFIER, device="cpu")

    def named(shown: list[Image.Image]) -> list[Labels]:
        return [classifier.classify(picture) for picture in shown]

    seen, true = named(drawn), named(real_pictures(known, pictures, world))
    held_out = hits(unknown, named(others))["concept"]
    held_out_true = hits(unknown, named(real_pictures(unknown, pictures, world)))["concept"]
    scores = {"vae_psnr": psnr, "retrieval": found, **hits(known, seen), "held_out": held_out}
    real = {**hits(known, true), "held_out": held_out_true}
    told = report(model, settings, {"captions": len(known), "held_out": len(unknown)}, scores, real)
    return Found(told, confusions(known, seen), drawn[:64], seconds)


def draw_everything(
    base: Base, known: list[Asked], unknown: list[Asked], settings: Measure
) -> tuple[list[Image.Image], list[Image.Image], dict[str, float]]:
    """Pictures of both kinds of captions, and the median seconds per picture, drawn alone and in batches."""

    def drawn(asked: list[Asked], batch: int, title: str) -> Drawn:
        return draw_all(base, asked, settings.sampling, settings.seed, batch, progress, title)

    drawn(known[: settings.batch], settings.batch, "warm-up")
    alone = drawn(known[: settings.alone], 1, "one at a time")
    together = drawn(known, settings.batch, "captions")
    others = drawn(unknown, settings.batch, "held-out concepts")
    full = together.seconds[: len(known) // settings.batch] or together.seconds
    seconds = {"alone": statistics.median(alone.seconds), "batch": statistics.median(full) / settings.batch}
    return together.pictures, others.pictures, seconds


def captions(pictures: Pictures, world: World, settings: Measure) -> list[Asked]:
    """Random captions among all concepts, each concept as likely as any other."""
    draw = randomiser(settings.seed, "captions")
    concepts = sorted(set(pictures.trained(world).concept))
    return ask(pictures, [draw.choice(concepts) for _ in range(settings.captions)], world, draw)


def report(
    model: Path, settings: Measure, counts: dict[str, int], scores: dict[str, float], real: dict[str, float]
) -> dict[str, Any]:
    """What a card needs: the numbers, how they were measured, and digests of the measured weights."""
    asked = {**counts, "seed": settings.seed, "sampling": settings.sampling.model_dump()}
    return {**asked, "weights": table.weights(model), "scores": _rounded(scores), "real": _rounded(real)}


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}


def write(folder: Path, found: Found) -> None:
    """Write ``measured.json``, ``table.md`` without seconds, what the classifier got wrong, and drawn pictures."""
    write_json(folder / "measured.json", found.report)
    write_json(folder / "wrong.json", found.wrong)
    bars = pick(FOLDER / "params.yaml", StageParams).measure.bars
    with atomic_path(folder / "table.md") as path:
        path.write_text(table.markdown(found.report, bars, {}) + "\n", encoding="utf-8")
    with atomic_path(folder / "drawn.png") as path:
        tile(found.shown, 8).save(path)


if __name__ == "__main__":
    run(measure)
