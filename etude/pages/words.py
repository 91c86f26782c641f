"""How numbers are written and what they are called, on pages and in the report alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A column: its key, its name, which way is better ("" where neither is), and what it is."""

    key: str
    name: str
    better: str
    about: str


METRICS = (
    Metric("truth_similarity", "Truth similarity", "higher", "CLIP cosine with kept-back pictures of what was asked"),
    Metric("concept_accuracy", "Concept accuracy", "higher", "share in which the judge names the concept asked for"),
    Metric("style_similarity", "Style similarity", "higher", "CLIP cosine with all kept-back pictures of the style"),
    Metric("style_accuracy", "Style accuracy", "higher", "share in which the judge names the style asked for"),
    Metric("background_accuracy", "Background accuracy", "higher", "share in which the judge names the background"),
    Metric("image_similarity", "Image similarity", "higher", "CLIP cosine with the training pictures, over all pairs"),
    Metric("nearest_similarity", "Nearest picture", "", "CLIP cosine with the nearest training picture; 1 is a copy"),
    Metric("text_alignment", "Text alignment", "higher", "CLIP cosine with the prompt, the learned name left out"),
    Metric("diversity", "Diversity", "", "1 − cosine between pictures of one prompt; 0 when all seeds look alike"),
    Metric("kid", "KID", "lower", "distance between the sets of pictures, unbiased, in CLIP's space; rough for so few"),
    Metric("cmmd", "CMMD", "lower", "distance between the sets of pictures in CLIP's space, in thousandths"),
    Metric("validation_loss", "Validation loss", "lower", "error at fixed noise and timesteps on training pictures"),
)  # fmt: skip
BY_KEY = {metric.key: metric for metric in METRICS}


def measured(tables: Iterable[Mapping[str, object]]) -> tuple[Metric, ...]:
    """The columns that stand in any of ``tables`` (metric → value or values); None is no value."""
    known = {name for table in tables for name, value in table.items() if value is not None}
    return tuple(metric for metric in METRICS if metric.key in known)


def number(value: float | None) -> str:
    """Three significant digits; a dash for what was not measured."""
    if value is None:
        return "–"
    return f"{value:.3g}".replace("-", "−") if abs(value) < 0.1 else f"{value:.3f}".replace("-", "−")


def spread(value: float | None) -> str:
    """``± 0.012``, or nothing."""
    return "" if value is None else f"± {value:.2g}"


def size(count: int) -> str:
    """Bytes in the unit that suits: ``28.4 MB``."""
    amount, units = float(count), ["bytes", "kB", "MB", "GB"]
    while amount >= 1000 and len(units) > 1:
        amount, units = amount / 1000, units[1:]
    return f"{amount:.0f} {units[0]}" if units[0] == "bytes" else f"{amount:.3g} {units[0]}"


def title(about: tuple[str, ...], method: str) -> tuple[str, str]:
    """Name and one sentence of a method from its docstring's first paragraph, ``LoRA: a low-rank change …``."""
    first = about[0] if about else method
    name, colon, rest = first.partition(": ")
    return (name, rest[:1].upper() + rest[1:].rstrip(".") + ".") if colon else (method, first)


def verdict(values: Mapping[str, float]) -> str:
    """One sentence on a metric where higher is better: the gain over the base, against the spread between seeds."""
    base, best = values.get("base"), values.get("best")
    if base is None or best is None:
        return ""
    known = [values[name] for name in ("base_spread", "best_spread") if name in values]
    gain, width = best - base, max(known, default=0.0)
    if not known:
        return f"From {number(base)} to {number(best)}; one seed alone tells no spread."
    if gain <= 0:
        return f"From {number(base)} to {number(best)}: it did not rise."
    if not width:
        return f"From {number(base)} to {number(best)}, the same with every seed."
    if gain <= 3 * width:
        return f"From {number(base)} to {number(best)}: less than three times the spread between seeds, so not certain."
    return f"From {number(base)} to {number(best)}: {gain / width:.0f} times the spread between seeds."
