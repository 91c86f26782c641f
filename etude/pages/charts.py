"""Line charts as inline SVG: no script; colours are the page's variables, so they follow its light or dark theme."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

WIDTH, HEIGHT = 440, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 36


@dataclass(frozen=True)
class Chart:
    """A curve: points (x, y, spread or None), horizontal lines by name (``levels``), and the marked x (``mark``)."""

    title: str
    points: Sequence[tuple[float, float, float | None]]
    levels: Mapping[str, float] = field(default_factory=dict)
    mark: float | None = None
    dots: bool = True


def draw(chart: Chart) -> Markup:
    """The chart as one ``<svg>`` element; names in it are escaped."""
    ys = [y + side * (spread or 0.0) for _, y, spread in chart.points for side in (-1, 1)] + [*chart.levels.values()]
    across, up = Scale(LEFT, WIDTH - RIGHT, *_ends([x for x, _, _ in chart.points])), _scale_up(ys)
    parts = [*_ruler(chart, across, up), *_levels(chart, up), *_curve(chart, across, up)]
    label = escape(chart.title)
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
    # every text in the SVG was escaped above
    return Markup(svg + "".join(parts) + "</svg>")


@dataclass(frozen=True)
class Scale:
    """From values between ``low`` and ``high`` to pixels between ``first`` and ``last``."""

    first: float
    last: float
    low: float
    high: float

    def __call__(self, value: float) -> float:
        """Pixels of a value."""
        return round(self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first), 1)


def _scale_up(values: Sequence[float]) -> Scale:
    low, high = _ends(values)
    air = 0.08 * (high - low)
    return Scale(HEIGHT - BOTTOM, TOP, low - air, high + air)


def _ends(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers between ``low`` and ``high``: about ``count``, steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _steps(chart: Chart) -> list[float]:
    """The x of each point, if there are at most 8, so that every checkpoint has a tick; otherwise nothing."""
    return [x for x, _, _ in chart.points] if chart.dots and len(chart.points) <= 8 else []


def _ruler(chart: Chart, across: Scale, up: Scale) -> list[str]:
    parts = []
    for value in ticks(up.low, up.high):
        y = up(value)
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{value:g}</text>')
    for value in _steps(chart) or ticks(across.low, across.high, 5):
        parts.append(f'<text class="tick" x="{across(value)}" y="{HEIGHT - 14}" text-anchor="middle">{value:g}</text>')
    return parts


def _levels(chart: Chart, up: Scale) -> list[str]:
    parts = []
    for name, value in chart.levels.items():
        y = up(value)
        parts.append(f'<line class="level" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{WIDTH - RIGHT}" y="{y - 5}" text-anchor="end">{escape(name)}</text>')
    return parts


def _curve(chart: Chart, across: Scale, up: Scale) -> list[str]:
    line = " ".join(f"{across(x)},{up(y)}" for x, y, _ in chart.points)
    parts = [f'<polyline class="curve" points="{line}"/>']
    for x, y, spread in chart.points:
        if spread:
            top, bottom = up(y + spread), up(y - spread)
            parts.append(f'<line class="spread" x1="{across(x)}" x2="{across(x)}" y1="{top}" y2="{bottom}"/>')
        if chart.dots:
            kind = "dot best" if x == chart.mark else "dot"
            parts.append(f'<circle class="{kind}" cx="{across(x)}" cy="{up(y)}" r="{5 if x == chart.mark else 3.5}"/>')
    return parts
