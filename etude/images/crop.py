"""Which part of a picture is used: boxes (left, top, right, bottom) in its pixels. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log
from random import Random

from PIL import Image

Size = tuple[int, int]  # width, height
Box = tuple[float, float, float, float]
# A picture that is three times too large or more is first shrunk by a whole factor: faster, with no visible difference.
REDUCING_GAP = 3.0


def fitted(size: Size, side: float) -> Size:
    """The size with ``side`` as its longer side, and the same shape."""
    scale = side / max(size)
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def scaled(box: Sequence[float], across: float, down: float) -> Box:
    """The box in a picture that is ``across`` times as wide and ``down`` times as high."""
    return box[0] * across, box[1] * down, box[2] * across, box[3] * down


def crop_box(size: tuple[float, float], target: Size, focus: tuple[float, float] | None = None) -> Box:
    """The largest box of the target's shape, as near to ``focus`` (a point; None: the middle) as the edges allow."""
    (width, height), (w, h) = size, target
    scale = min(width / w, height / h)
    box_w, box_h = min(scale * w, width), min(scale * h, height)  # rounding can make products too large by a bit
    x, y = focus or (width / 2, height / 2)
    left = min(max(x - box_w / 2, 0.0), width - box_w)
    top = min(max(y - box_h / 2, 0.0), height - box_h)
    return left, top, min(left + box_w, width), min(top + box_h, height)


def smaller_box(box: Box, share: float, draw: Random) -> Box:
    """A box of the same shape inside ``box``, smaller by at most ``share`` of its sides, at a random place."""
    left, top, right, bottom = box
    less = draw.uniform(0, share)
    across, down = (right - left) * less, (bottom - top) * less
    left, top = left + across * draw.random(), top + down * draw.random()
    return left, top, min(left + right - box[0] - across, right), min(top + bottom - box[1] - down, bottom)


def split_boxes(size: Size, target: Size, threshold: float, overlap: float) -> list[Box]:
    """Overlapping boxes along the long side of an oversized picture; none if its shape is near the target's.

    A1111's "split oversized images": with W×H the target, a portrait w×h is split if w·H / (h·W) is below 1 and at
    most ``threshold`` (landscapes the other way round). The boxes overlap by about ``overlap``.
    """
    (width, height), (w, h) = size, target
    portrait = height > width
    ratio = (width * h) / (height * w) if portrait else (height * w) / (width * h)
    if not (ratio < 1 and ratio <= threshold):
        return []
    scale = w / width if portrait else h / height
    long, side = (height * w // width, h) if portrait else (width * h // height, w)
    count = max(ceil((long - side * overlap) / (side * (1 - overlap))), 2)
    starts = [int((long - side) / (count - 1) * i) / scale for i in range(count)]
    if portrait:
        return [(0.0, start, float(width), min(start + side / scale, height)) for start in starts]
    return [(start, 0.0, min(start + side / scale, width), float(height)) for start in starts]


def bucket_sizes(resolution: int, step: int) -> list[Size]:
    """Sizes of at most resolution² pixels; their sides are multiples of ``step`` from resolution/2 to resolution·2."""
    sides = range(ceil(resolution / 2 / step) * step, resolution * 2 + 1, step)
    sizes = {(w, min(resolution * resolution // w // step * step, resolution * 2)) for w in sides}
    return sorted({size for w, h in sizes if h in sides for size in ((w, h), (h, w))})


def nearest_size(size: Size, sizes: list[Size]) -> Size:
    """The one of ``sizes`` whose shape loses the least of the picture; among equal ones, the largest."""
    shape = log(size[0] / size[1])
    return min(sizes, key=lambda s: (round(abs(log(s[0] / s[1]) - shape), 9), -s[0] * s[1], s))


def cut(image: Image.Image, box: Box, target: Size) -> Image.Image:
    """The part in ``box``, resized to ``target`` by Lanczos."""
    return image.resize(target, Image.Resampling.LANCZOS, box=box, reducing_gap=REDUCING_GAP)


def pad(image: Image.Image, target: Size, background: tuple[int, int, int]) -> Image.Image:
    """The whole picture, as large as fits, in the middle of ``background``."""
    scale = min(target[0] / image.width, target[1] / image.height)
    inner = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
    ground = Image.new("RGB", target, background)
    shrunk = image.resize(inner, Image.Resampling.LANCZOS, reducing_gap=REDUCING_GAP)
    ground.paste(shrunk, ((target[0] - inner[0]) // 2, (target[1] - inner[1]) // 2))
    return ground
