"""Before and after of several methods on one scale, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from etude.pages.charts import ticks

WIDTH, ROW, LEFT, RIGHT, TOP, BOTTOM = 760, 44, 190, 30, 26, 30


@dataclass(frozen=True)
class Bar:
    """One method: its value with the untouched base and with what it learned, each with its spread."""

    name: str
    before: float
    after: float
    before_spread: float | None = None
    after_spread: float | None = None


def draw(bars: Sequence[Bar], real: float | None) -> Markup:
    """A row a method: hollow dot before, filled dot after; ``real`` is a dashed line. Names are escaped."""
    spans = [(b.before, b.before_spread) for b in bars] + [(b.after, b.after_spread) for b in bars]
    values = [value + side * (spread or 0.0) for value, spread in spans for side in (-1, 1)]
    values += [] if real is None else [real]
    low, high = min(values), max(values)
    air = 0.05 * (high - low) or 0.5
    low, high = low - air, high + air
    height = TOP + ROW * len(bars) + BOTTOM

    def at(value: float) -> float:
        return round(LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT), 1)

    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="image similarity before and after">']
    for tick in ticks(low, high, 6):
        x = at(tick)
        parts.append(f'<line class="rule" x1="{x}" x2="{x}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{height - 10}" text-anchor="middle">{tick:g}</text>')
    if real is not None:
        x = at(real)
        parts.append(f'<line class="level" x1="{x}" x2="{x}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{TOP - 9}" text-anchor="middle">real pictures</text>')
    for number, bar in enumerate(bars):
        y = TOP + ROW * number + ROW // 2
        parts.append(f'<text class="label" x="{LEFT - 18}" y="{y + 5}" text-anchor="end">{escape(bar.name)}</text>')
        parts.append(f'<line class="curve" x1="{at(bar.before)}" x2="{at(bar.after)}" y1="{y}" y2="{y}"/>')
        for value, spread, kind in (
            (bar.before, bar.before_spread, "dot"),
            (bar.after, bar.after_spread, "dot best"),
        ):
            if spread:
                left, right = at(value - spread), at(value + spread)
                parts.append(f'<line class="spread wide" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
            parts.append(f'<circle class="{kind}" cx="{at(value)}" cy="{y}" r="6"/>')
    return Markup("".join(parts) + "</svg>")
