"""How numbers are written on pages and in the report."""

from __future__ import annotations

from collections.abc import Mapping

from etude.metrics import Metric


def number(value: float | None) -> str:
    """``value`` with three significant digits; a dash for None."""
    if value is None:
        return "–"
    return f"{value:.3g}".replace("-", "−") if abs(value) < 0.1 else f"{value:.3f}".replace("-", "−")


def spread(value: float | None) -> str:
    """``± 0.012``; an empty text for None."""
    return "" if value is None else f"± {value:.2g}"


def size(count: int) -> str:
    """A number of bytes in a readable unit: ``28.4 MB``."""
    amount, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while amount >= 999.5 and len(units) > 1:  # three digits would round 999.5 to 1e+03
        amount, units = amount / 1000, units[1:]
    return f"{amount:.0f} {units[0]}" if units[0] == "bytes" else f"{amount:.3g} {units[0]}"


def title(about: tuple[str, ...], method: str) -> tuple[str, str]:
    """A method's name and a sentence about it, from its docstring's first paragraph, ``LoRA: a low-rank change …``."""
    first = about[0] if about else method
    name, colon, rest = first.partition(": ")
    return (name, rest[:1].upper() + rest[1:].rstrip(".") + ".") if colon else (method, first)


def verdict(values: Mapping[str, float], metric: Metric) -> str:
    """A sentence about a metric with a better direction: the gain over the base, compared with the spread of seeds."""
    base, best = values.get("base"), values.get("best")
    if base is None or best is None:
        return ""
    spreads = [values[name] for name in ("base_spread", "best_spread") if name in values]
    gain, width = metric.sign * (best - base), max(spreads, default=0.0)
    if not spreads:
        return f"From {number(base)} to {number(best)}; with one seed, the spread is unknown."
    if gain <= 0:
        return f"From {number(base)} to {number(best)}: it did not {'fall' if metric.better == 'lower' else 'rise'}."
    if not width:
        return f"From {number(base)} to {number(best)}, the same with every seed."
    if gain <= 3 * width:
        return f"From {number(base)} to {number(best)}: less than three times the spread between seeds, so not certain."
    return f"From {number(base)} to {number(best)}: {gain / width:.0f} times the spread between seeds."
