"""Experiments to run, and a page that compares their results side by side, as one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etude.core.files import file_name
from etude.metrics import BY_KEY

PAGE = Path(__file__).with_suffix(".html")


@dataclass(frozen=True)
class Trial:
    """One experiment to run: DVC's overrides by params file, and the targets to bring up to date with them."""

    title: str
    values: Mapping[str, Sequence[str]]
    targets: Sequence[str] = ()


@dataclass
class Result:
    """The result of one experiment: its numbers by name, its pictures (data URIs) by path, and what went wrong."""

    name: str
    metrics: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, str] = field(default_factory=dict)
    fault: str = ""


def render(title: str, results: Sequence[Result]) -> str:
    """The page: one row for each experiment; numbers that differ between experiments come first."""
    from jinja2 import Environment

    names = list(dict.fromkeys(name for result in results for name in result.metrics))
    measured = [result.metrics for result in results if not result.fault]
    values: dict[str, list[Any]] = {}
    for name in names:
        values[name] = [metrics.get(name) for metrics in measured]
    same = {name for name in names if len(set(map(str, values[name]))) == 1}
    best = {name: found for name in names if name not in same and (found := _best(name, values[name])) is not None}
    columns = sorted(names, key=same.__contains__)
    template = Environment(autoescape=True).from_string(PAGE.read_text(encoding="utf-8"))
    return template.render(title=title, rows=results, columns=columns, best=best, told=_told)


def write(root: Path, title: str, results: Sequence[Result]) -> Path:
    """Write the page into the logs; returns its path."""
    file = root / "logs" / "sweeps" / f"{file_name(title)}.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(render(title, results))
    return file


def _best(name: str, values: Sequence[Any]) -> float | None:
    """The best value of a column; None where neither high nor low is better, as for the untouched base or a spread."""
    *_, key, kind = ["", *name.rpartition(" ")[2].split(".")]  # lora:evaluate image_similarity.best
    metric = BY_KEY.get(key if kind in ("best", "final") else kind)
    numbers: list[float] = list(filter(_is_number, values))
    if metric is None or not metric.better or not numbers:
        return None
    return max(numbers, key=lambda value: metric.sign * value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _told(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
