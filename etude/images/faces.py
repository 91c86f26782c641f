"""Faces in a picture, for ``crop: faces``: OpenCV's cascades, whose weights are in its package (Viola and Jones, 2001).

Frontal faces first; where there is none, faces in profile. Without the package ``crop: faces`` is refused, and
``crop: focus`` never looks for faces: whether faces count depends on the parameter `crop` alone, which DVC sees. Their
boxes may also depend on OpenCV's version, which ``images.json`` records.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.core.errors import InputError
from etude.images.crop import Box, fitted, scaled

if TYPE_CHECKING:
    from PIL import Image

FRONTAL, PROFILE = "haarcascade_frontalface_alt2.xml", "haarcascade_profileface.xml"
SIDE = 480  # the picture is searched with a long side of at most this many pixels
LEAST = 24  # pixels of that: the side of the smallest face
STEP, NEIGHBOURS = 1.1, 5  # between two sizes of faces; how many windows must agree on one


def refuse_missing(crop: str) -> None:
    """Raise InputError where ``crop`` needs the detector and OpenCV, or its cascades, are not installed."""
    if crop == "faces" and not all((_cascades() / name).is_file() for name in (FRONTAL, PROFILE)):
        fault = "`crop: faces` needs opencv-python-headless below version 5, which is not installed"
        raise InputError("params.yaml", fault, "`make setup EXTRAS=faces`, or write `crop: focus`")


def version() -> str:
    """The version of OpenCV that finds the faces."""
    import cv2

    return str(cv2.__version__)


def find_faces(image: Image.Image) -> list[Box]:
    """The boxes of the faces in an RGB image, in its pixels, from the left; in profile if none looks at the camera."""
    import cv2
    import numpy as np

    cv2.setNumThreads(1)  # with several, the order in which windows are grouped varies, and the boxes with it
    size = fitted(image.size, min(SIDE, max(image.size)))
    grey = np.asarray(image.resize(size, reducing_gap=2.0).convert("L"))
    found = _search(FRONTAL, grey)
    if not found:  # the cascade of profiles knows those that look to one side
        mirrored = _search(PROFILE, np.ascontiguousarray(grey[:, ::-1]))
        found = _search(PROFILE, grey) + [(size[0] - x - w, y, w, h) for x, y, w, h in mirrored]
    across, down = image.width / size[0], image.height / size[1]
    return [scaled((x, y, x + w, y + h), across, down) for x, y, w, h in sorted(found)]


def _search(cascade: str, grey: Any) -> list[tuple[int, int, int, int]]:
    found = _detector(cascade).detectMultiScale(grey, STEP, NEIGHBOURS, minSize=(LEAST, LEAST))
    return [(int(x), int(y), int(w), int(h)) for x, y, w, h in found]


@cache
def _detector(cascade: str) -> Any:
    import cv2

    return cv2.CascadeClassifier(str(_cascades() / cascade))


def _cascades() -> Path:
    """The folder of OpenCV's cascades, which may not exist; OpenCV is not imported."""
    package = find_spec("cv2")
    return Path(package.origin if package and package.origin else "nowhere").parent / "data"
