"""Faces in a picture, for ``crop: faces``: OpenCV's cascades, whose weights are in its package (Viola and Jones, 2001).

Frontal faces are searched first; if there are none, faces in profile. Without the package, ``crop: faces`` is refused;
``crop: focus`` never searches faces. So only the parameter `crop`, which DVC tracks, decides whether faces are used.
Their boxes may also depend on OpenCV's version, which ``images.json`` records.
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
SIDE = 480  # pixels: the longer side of the picture that is searched, at most
LEAST = 24  # pixels of that picture: the side of the smallest face
STEP, NEIGHBOURS = 1.1, 5  # the factor between two sizes of faces; how many windows must agree on a face


def refuse_missing(crop: str) -> None:
    """Raise InputError if ``crop`` needs the detector, and OpenCV or its cascades are not installed."""
    if crop == "faces" and not all((_cascades() / name).is_file() for name in (FRONTAL, PROFILE)):
        fault = "`crop: faces` needs opencv-python-headless below version 5, which is not installed"
        raise InputError("params.yaml", fault, "run `make setup EXTRAS=faces`, or write `crop: focus`")


def version() -> str:
    """The version of OpenCV that finds the faces."""
    import cv2

    return str(cv2.__version__)


def find_faces(image: Image.Image) -> list[Box]:
    """The boxes of the faces in an RGB image, in its pixels, from the left; in profile if none looks at the camera."""
    import cv2
    import numpy as np

    cv2.setNumThreads(1)  # with several threads, the order in which windows are grouped varies, and so do the boxes
    size = fitted(image.size, min(SIDE, max(image.size)))
    grey = np.asarray(image.resize(size, reducing_gap=2.0).convert("L"))
    found = _search(FRONTAL, grey)
    if not found:  # the cascade of profiles finds only faces that look to one side
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
