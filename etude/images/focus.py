"""Where a picture's subject is likely to be: the focal point of its edges and its entropy.

After A1111's "auto focal point crop", with its weights, but for the crop that is wanted: the point is the middle of the
window that holds most of both, not their centre of mass, which a detailed face pulls away from its body. A1111's face
detector needs a library and a model of its own, and is not offered.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from etude.images.crop import crop_box

SIDE = 256  # the picture is looked at with a long side of this many pixels
EDGES, ENTROPY = 0.5, 0.15  # weights
STRONG = 0.04  # edges count from this share of the strongest one
LEVELS, STRIDE = 16, 2  # grey levels of the histogram; pixels between two windows
EQUAL = 0.01  # windows whose score is this near to the best are as good; the middle one is taken


def focal_point(image: Image.Image, target: tuple[int, int]) -> tuple[float, float]:
    """The point (x, y), in pixels of ``image``, around which a crop of the shape [w, h] of ``target`` shows most."""
    scale = SIDE / max(image.size)
    size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
    small = image.resize(size, reducing_gap=2.0)
    left, top, right, bottom = crop_box(small.size, target)
    pixels = np.asarray(small, dtype=np.int64)
    x = _best_middle(pixels, right - left) if left > top else small.width / 2
    y = _best_middle(pixels.transpose(1, 0, 2), bottom - top) if top > left else small.height / 2
    return x * image.width / small.width, y * image.height / small.height


def _best_middle(pixels: NDArray[np.int64], length: float) -> float:
    """The middle column of the window of ``length`` columns with the best score; ``pixels`` [h, w, 3]."""
    width, window = pixels.shape[1], max(round(length), 1)
    starts = np.arange(0, width - window + 1, STRIDE)
    reach = np.concatenate([[0.0], np.cumsum(_edges(pixels).sum(axis=0))])
    shares = (reach[starts + window] - reach[starts]) / (reach[-1] or 1.0)
    grey = pixels.sum(axis=2)
    varied = np.array([_entropy(grey[:, start : start + window]) for start in starts])
    scores = EDGES * shares + ENTROPY * varied
    good = starts[scores >= scores.max() - EQUAL]
    rest = (width - window - starts[-1]) / 2  # what the stride leaves over: all windows' middle is the picture's
    return float(good.mean() + rest + window / 2)


def _edges(pixels: NDArray[np.int64]) -> NDArray[np.float64]:
    """How much each pixel [h, w] differs from its left and upper neighbours in some channel; 0 where that is little.

    The root of the difference, so that one hard edge does not outweigh the outline of a soft body.
    """
    step = np.zeros(pixels.shape[:2], dtype=np.int64)
    step[:, 1:] += np.abs(np.diff(pixels, axis=1)).max(axis=2)
    step[1:, :] += np.abs(np.diff(pixels, axis=0)).max(axis=2)
    step[step < STRONG * step.max()] = 0
    return np.sqrt(step)


def _entropy(grey: NDArray[np.int64]) -> float:
    """Shannon entropy −Σ p log p of the histogram of r + g + b, as a share of the highest possible."""
    counts = np.bincount(grey.ravel() * LEVELS // (3 * 256), minlength=LEVELS)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum() / np.log(LEVELS))
