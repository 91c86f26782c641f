"""Views of a picture for Custom Diffusion: drawn smaller on a grey canvas, or larger and cut (arXiv:2212.04488).

Written from the description of the augmentation: a smaller view is pasted at a random place, and only the latent cells
that are completely inside it count, without a border of one cell; of a larger view every cell counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from PIL import Image

from etude.training.augmentation import Augmentation, Kind

GREY = (128, 128, 128)  # 0 where pixels are -1 to 1
CELL = 8  # px of a latent cell
LEAST = 4 * CELL  # px: in a smaller view, no cell would count inside a border of one cell


@dataclass(frozen=True)
class Placing:
    """A view's size, where it is pasted (or cut, if larger than the picture), and its kind: far, near or whole."""

    width: int
    height: int
    left: int
    top: int
    kind: Kind


def place(size: tuple[int, int], asked: Augmentation, chance: Random) -> Placing:
    """A random size and place for a picture of ``size`` (width, height) in px.

    The shorter side s is drawn from smallest · s … s, or (one view in 1 / (1 - smaller)) from the two ``largest``.
    """
    side = min(size)
    if chance.random() < asked.smaller:
        scale = chance.randint(min(side, max(LEAST, int(asked.smallest * side))), side)
    else:
        scale = chance.randint(int(asked.largest[0] * side), int(asked.largest[1] * side))
    width, height = (round(length * scale / side) for length in size)
    left, top = (chance.randint(0, abs(free)) for free in (size[0] - width, size[1] - height))
    kind: Kind = "far" if scale < asked.far_below * side else "near" if scale > side else "whole"
    return Placing(width, height, left, top, kind)


def view(picture: Image.Image, placing: Placing) -> Image.Image:
    """The picture as placed, on a canvas of the picture's size."""
    resized = picture.resize((placing.width, placing.height), Image.Resampling.BICUBIC)
    if placing.width > picture.width or placing.height > picture.height:
        left, top = placing.left, placing.top
        return resized.crop((left, top, left + picture.width, top + picture.height))
    canvas = Image.new("RGB", picture.size, GREY)
    canvas.paste(resized, (placing.left, placing.top))
    return canvas


def counted(size: tuple[int, int], placing: Placing) -> tuple[range, range]:
    """Columns and rows of the latent cells that count in a picture of ``size``."""
    if placing.width > size[0] or placing.height > size[1]:
        return range(size[0] // CELL), range(size[1] // CELL)
    columns = range(placing.left // CELL + 1, (placing.left + placing.width) // CELL - 1)
    rows = range(placing.top // CELL + 1, (placing.top + placing.height) // CELL - 1)
    return columns, rows
