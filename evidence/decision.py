"""Statistics over several seeds: a mean with its interval, and whether a claim holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

LEVEL = 0.95
HOLDS, FALSE, UNDECIDED, UNMEASURED = "holds", "false", "undecided", "not measured"


@dataclass(frozen=True)
class Estimate:
    """Mean of `count` values; with two or more, their standard deviation (n - 1) and half the mean's interval."""

    mean: float
    count: int
    spread: float | None = None
    half: float | None = None


def estimate(values: Sequence[float]) -> Estimate:
    """The mean with Student's interval at LEVEL: mean ± t · s / √n with n - 1 degrees of freedom (Gosset, 1908)."""
    count = len(values)
    if count < 2:
        return Estimate(fmean(values), count)
    from scipy.stats import t

    spread = stdev(values)
    half = float(t.ppf((1 + LEVEL) / 2, count - 1)) * spread / math.sqrt(count)
    return Estimate(fmean(values), count, spread, half)


def verdict(difference: Estimate | None) -> str:
    """HOLDS if a difference is above 0 by more than its interval, FALSE if it is below by more, else UNDECIDED.

    One value has no interval and decides nothing.
    """
    if difference is None:
        return UNMEASURED
    if difference.half is None or abs(difference.mean) <= difference.half:
        return UNDECIDED
    return HOLDS if difference.mean > 0 else FALSE


def within(value: float, least: float | None, most: float | None) -> str:
    """HOLDS if a size is between two bounds, of which either may be missing; else FALSE."""
    return HOLDS if (least is None or value >= least) and (most is None or value <= most) else FALSE
