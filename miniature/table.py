"""The table of measured numbers, with the bars (limits) that they should reach: for the terminal and for the card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etude.core.files import read_json, sha256_tree
from etude.core.params import Schema
from miniature.world import OUT

LOGS = Path("logs/miniature")  # results of `make miniature-measure`, and the seconds of every measurement
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "clip", "judge")  # the measured parts, and those that measure


class Bars(Schema):
    """What the miniature should reach: dB, shares from 0 to 1, seconds an image."""

    vae_psnr: float
    retrieval: float
    concept: float
    style: float
    background: float
    held_out: float
    alone: float
    batch: float


ROWS = {
    "vae_psnr": "autoencoder, PSNR on concepts it has not seen",
    "retrieval": "CLIP, text → picture, new renderings, top-1 concept",
    "concept": "drawn: concept",
    "style": "drawn: style",
    "background": "drawn: background",
    "held_out": "held-out concepts by name: concept",
}
TIMES = {"alone": "one picture alone", "batch": "a picture in batches"}
AT_MOST = ("held_out", "alone", "batch")


def markdown(report: Mapping[str, Any], bars: Bars, seconds: Mapping[str, float]) -> str:
    """Rows of score, real pictures and bar; shares of drawn pictures have their standard error."""
    limits = bars.model_dump()
    lines = ["| what | score | real pictures | bar | |", "|---|---|---|---|---|"]
    for name, title in ROWS.items():
        value, real = report["scores"][name], report["real"].get(name)
        count = {"held_out": report["held_out"]}.get(name, report["captions"] if name in report["real"] else 0)
        score = number(name, value) + (f" ± {100 * error(value, count):.1f}" if count else "")
        shown = "–" if real is None else number(name, real)
        lines.append(f"| {title} | {score} | {shown} | {bar(name, limits[name])} | {mark(name, value, limits[name])} |")
    for name, value in seconds.items():
        limit = limits[name]
        lines.append(f"| {TIMES[name]} | {value:.2f} s | – | {bar(name, limit)} | {mark(name, value, limit)} |")
    return "\n".join(lines)


def number(name: str, value: float) -> str:
    """A score in its unit."""
    if name in TIMES:
        return f"{value:.1f} s"
    return f"{value:.2f} dB" if name == "vae_psnr" else f"{100 * value:.1f} %"


def bar(name: str, limit: float) -> str:
    """``≥ 60.0 %``, ``≤ 1.5 s``."""
    return f"{'≤' if name in AT_MOST else '≥'} {number(name, limit)}"


def mark(name: str, value: float, limit: float) -> str:
    """Whether the bar is reached."""
    return "yes" if (value <= limit if name in AT_MOST else value >= limit) else "no"


def error(share: float, count: int) -> float:
    """Standard error of a share of ``count`` cases."""
    return float((share * (1 - share) / count) ** 0.5)


def weights(model: Path) -> dict[str, str]:
    """Digests of the files that are measured, and of those that measure."""
    return {part: sha256_tree(model / part) for part in PARTS if (model / part).is_dir()}


def of_model(model: Path, bars: Bars) -> str:
    """The table for the folder ``model``, measured by the stage or by hand; a sentence if it was not measured."""
    for folder in (OUT / "measure", LOGS):
        path = folder / "measured.json"
        if path.exists() and (report := read_json(path))["weights"] == weights(model):
            seconds = LOGS / "seconds.json"
            told = markdown(report, bars, read_json(seconds) if seconds.exists() else {})
            return f"{told}\n\n{about(report)}"
    return "Not measured yet: `make miniature-measure`, then `make miniature-card`."


def about(report: Mapping[str, Any]) -> str:
    """How the numbers of a report were measured."""
    sampling = report["sampling"]
    return (
        f"By `make miniature-measure`: {report['captions']} random captions among all concepts, {report['held_out']} "
        f"of held-out ones, {sampling['steps']} steps of {sampling['sampler']}, guidance {sampling['guidance']}, seed "
        f"{report['seed']}. A classifier that conditions nothing names what it sees; ± is the standard error of the "
        "mean; seconds are of two cores."
    )
