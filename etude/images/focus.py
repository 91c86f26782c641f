"""Where a picture's subject is likely to be: the focal point of its edges and its entropy.

After A1111's "auto focal point crop", without its face detector, which needs a library and a model of its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 256  # the picture is looked at with a long side of this many pixels
WEIGHTS = {"edges": 0.5, "entropy": 0.15}  # A1111's defaults
STRONG = 0.04  # edges count from this share of the strongest one
LEVELS, STRIDE = 16, 4  # grey levels of the histogram; pixels between two windows


def focal_point(image: Image.Image) -> tuple[float, float]:
    """The weighted mean (x, y), in pixels of ``image``, of its edges' centre and of its most varied square."""
    scale = SIDE / max(image.size)
    small = image.convert("L").resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)))
    grey = np.asarray(small, dtype=np.int64)
    points = {"edges": _edges(grey), "entropy": _varied(grey)}
    known = {kind: point for kind, point in points.items() if point is not None}
    total = sum(WEIGHTS[kind] for kind in known)
    if not total:
        return image.width / 2, image.height / 2
    x, y = (sum(WEIGHTS[kind] * point[axis] for kind, point in known.items()) / total for axis in (0, 1))
    return x * image.width / small.width, y * image.height / small.height


def _edges(grey: NDArray[np.int64]) -> tuple[float, float] | None:
    """The centre of mass of the strong edges (squared differences of neighbours)."""
    power = np.zeros_like(grey)
    power[:, 1:] += np.diff(grey, axis=1) ** 2
    power[1:, :] += np.diff(grey, axis=0) ** 2
    power[power < STRONG * power.max()] = 0
    total = int(power.sum())
    if not total:
        return None
    rows, columns = np.arange(grey.shape[0]), np.arange(grey.shape[1])
    return float(power.sum(0) @ columns) / total + 0.5, float(power.sum(1) @ rows) / total + 0.5


def _varied(grey: NDArray[np.int64]) -> tuple[float, float] | None:
    """The middle of the square, slid along the long side, with the highest entropy; near the centre when equal."""
    height, width = grey.shape
    side, long = min(grey.shape), max(grey.shape)
    upright = grey if height >= width else grey.T
    starts = sorted(range(0, long - side + 1, STRIDE), key=lambda start: abs(2 * start + side - long))
    scores = [round(_entropy(upright[start : start + side]), 6) for start in starts]
    if not max(scores):
        return None
    middle = starts[scores.index(max(scores))] + side / 2
    return (side / 2, middle) if height >= width else (middle, side / 2)


def _entropy(grey: NDArray[np.int64]) -> float:
    """Shannon entropy in bits of the histogram of LEVELS grey levels: −Σ p log₂ p."""
    counts = np.bincount(grey.ravel() * LEVELS // 256, minlength=LEVELS)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())
