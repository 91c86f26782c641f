"""Where a picture's subject is likely to be: its faces, if they are known, then its edges and its entropy.

Like A1111's "auto focal point crop", with its weights, but computed for the crop itself: the point is the middle of the
window that contains most of both, not their centre of mass, which a detailed face pulls away from its body. If no
window shows the whole of an upright picture, windows are pulled upwards, because a suit has more edges than the face
above it. Faces come from `etude.images.faces`, for ``crop: faces``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from etude.images.crop import Box, crop_box, fitted

SIDE = 256  # pixels: the longer side of the picture that is examined
EDGES, ENTROPY = 0.5, 0.15  # weights
STRONG = 0.04  # weaker edges than this share of the strongest one do not count
LEVELS, STRIDE = 16, 2  # grey levels of the histogram; pixels between two windows
EQUAL = 0.01  # windows whose score is this near to the best are equally good; the middle one is taken
# The score that a window loses for a distance of one picture's length from the place that it is pulled to. With less,
# some portraits of tests/etude/images/portraits.py keep less of a face than with `crop: center`.
PULL = 0.75
ALL = 0.98  # a window with this share of the edges shows the whole subject on a plain background: nothing is pulled
HAIR, CHIN = 0.5, 0.2  # how far a head reaches above and below the box of its face, in heights of the box


class _Span(NamedTuple):
    """The part of the side along which a window moves that a face or a head covers."""

    start: float
    end: float
    breadth: float

    def scaled(self, scale: float) -> _Span:
        return _Span(self.start * scale, self.end * scale, self.breadth * scale)

    def longer(self, before: float, after: float, limit: float) -> _Span:
        length = self.end - self.start
        return _Span(max(self.start - before * length, 0.0), min(self.end + after * length, limit), self.breadth)


def focal_point(image: Image.Image, target: tuple[int, int], faces: Sequence[Box] = ()) -> tuple[float, float]:
    """The point (x, y), in pixels of ``image``, around which a crop of the shape [w, h] of ``target`` shows most.

    It keeps as much of ``faces`` (boxes in pixels of ``image``) as any crop can, then of the heads around them.
    """
    scale = SIDE / max(image.size)
    small = image.resize(fitted(image.size, SIDE), reducing_gap=2.0)
    left, top, right, bottom = crop_box(small.size, target)
    pixels = np.asarray(small, dtype=np.int64)
    x, y = small.width / 2, small.height / 2
    if left > top:
        spans = [_Span(face[0], face[2], face[3] - face[1]).scaled(scale) for face in faces]
        x = _best_middle(pixels, right - left, [spans])
    elif top > left:
        spans = [_Span(face[1], face[3], face[2] - face[0]).scaled(scale) for face in faces]
        down_to_chin = [face.longer(0.0, CHIN, small.height) for face in spans]
        heads = [face.longer(HAIR, CHIN, small.height) for face in spans]
        # The longer the picture, the higher the window: at most an eighth of the picture is cut off above it.
        before = (bottom - top) / small.height / 2
        y = _best_middle(pixels.transpose(1, 0, 2), bottom - top, [spans, down_to_chin, heads], before)
    return x * image.width / small.width, y * image.height / small.height


def _best_middle(
    pixels: NDArray[np.int64], length: float, wanted: Sequence[Sequence[_Span]], before: float | None = None
) -> float:
    """The middle, in columns of ``pixels`` [h, w, 3], of the window of ``length`` columns with the best score.

    ``wanted`` are groups of spans: only windows that keep most of the first group are compared, of these only those
    that keep most of the second, and so on. ``before`` is the share of the columns left out that should come before
    the window: windows are pulled to that place, unless one of them shows the whole subject.
    """
    width, window = pixels.shape[1], max(round(length), 1)
    starts = np.arange(0, width - window + 1, STRIDE)
    rest = (width - window - starts[-1]) / 2  # the rest of the stride: the windows together are centred
    middles = starts + rest + window / 2
    reach = np.concatenate([[0.0], np.cumsum(_edges(pixels).sum(axis=0))])
    shares = (reach[starts + window] - reach[starts]) / (reach[-1] or 1.0)
    grey = pixels.sum(axis=2)
    varied = np.array([_entropy(grey[:, start : start + window]) for start in starts])
    scores = EDGES * shares + ENTROPY * varied
    if before is not None and shares.max() < ALL:
        place = before * (width - length) + length / 2
        scores -= PULL * np.abs(middles - place) / width
    for spans in wanted:
        kept = _kept(middles, length, spans)
        scores[kept < kept[np.isfinite(scores)].max() - 1e-6] = -np.inf
    good = np.flatnonzero(scores >= scores.max() - EQUAL)
    runs = np.split(good, np.flatnonzero(np.diff(good) > 1) + 1)
    best = next(run for run in runs if scores.argmax() in run)
    return float(middles[best].mean())


def _kept(middles: NDArray[np.float64], length: float, spans: Sequence[_Span]) -> NDArray[np.float64]:
    """The share of the area of ``spans`` that each window keeps."""
    kept, whole = np.zeros(len(middles)), 0.0
    for start, end, breadth in spans:
        inside = np.minimum(middles + length / 2, end) - np.maximum(middles - length / 2, start)
        kept += breadth * np.maximum(inside, 0.0)
        whole += breadth * (end - start)
    return kept / (whole or 1.0)


def _edges(pixels: NDArray[np.int64]) -> NDArray[np.float64]:
    """How much each pixel [h, w] differs from its left and upper neighbours in some channel; 0 if that is little.

    The square root is taken, so that one hard edge does not outweigh the outline of a soft body.
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
