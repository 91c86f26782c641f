"""Before and after of several methods on one scale, as inline SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from etude.pages.charts import Scale, ticks

WIDTH, ROW, LEFT, RIGHT, TOP, BOTTOM = 760, 44, 190, 30, 26, 30


@dataclass(frozen=True)
class Bar:
    """One method: its values before (untouched base) and after (with the artifact), each with its spread."""

    name: str
    before: float
    after: float
    before_spread: float | None = None
    after_spread: float | None = None


def draw(name: str, bars: Sequence[Bar], real: float | None) -> Markup:
    """One row for each method: hollow dot before, filled dot after; ``real`` is a dashed line. Names are escaped."""
    ends = [(b.before, b.before_spread) for b in bars] + [(b.after, b.after_spread) for b in bars]
    values = [value + side * (spread or 0.0) for value, spread in ends for side in (-1, 1)]
    values += [] if real is None else [real]
    air = 0.05 * (max(values) - min(values)) or 0.5
    across = Scale(LEFT, WIDTH - RIGHT, min(values) - air, max(values) + air)
    height = TOP + ROW * len(bars) + BOTTOM
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(name)} before and after">']
    for tick in ticks(across.low, across.high, 6):
        parts.append(_upright("rule", across(tick), height - BOTTOM))
        parts.append(f'<text class="tick" x="{across(tick)}" y="{height - 10}" text-anchor="middle">{tick:g}</text>')
    if real is not None:
        parts.append(_upright("level", across(real), height - BOTTOM))
        parts.append(f'<text class="tick" x="{across(real)}" y="{TOP - 9}" text-anchor="middle">real pictures</text>')
    for number, bar in enumerate(bars):
        parts += _row(bar, across, TOP + ROW * number + ROW // 2)
    return Markup("".join(parts) + "</svg>")


def _upright(kind: str, x: float, foot: int) -> str:
    return f'<line class="{kind}" x1="{x}" x2="{x}" y1="{TOP}" y2="{foot}"/>'


def _row(bar: Bar, across: Scale, y: int) -> Iterator[str]:
    yield f'<text class="label" x="{LEFT - 18}" y="{y + 5}" text-anchor="end">{escape(bar.name)}</text>'
    yield f'<line class="curve" x1="{across(bar.before)}" x2="{across(bar.after)}" y1="{y}" y2="{y}"/>'
    for value, spread, kind in (
        (bar.before, bar.before_spread, "dot"),
        (bar.after, bar.after_spread, "dot best"),
    ):
        if spread:
            left, right = across(value - spread), across(value + spread)
            yield f'<line class="spread wide" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>'
        yield f'<circle class="{kind}" cx="{across(value)}" cy="{y}" r="6"/>'
