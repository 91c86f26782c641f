"""How blurred a picture is, and how much contrast it has, measured by its pixels alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageStat

WINDOW = 9  # px over which the picture is averaged for the comparison, as in the paper


def blur_of(image: Image.Image) -> float:
    """How blurred an RGB picture is: 0 is sharp, 1 is blurred.

    Blurring a sharp picture changes its neighbouring pixels much, blurring a blurred one changes them little. The
    value is the share of the differences between neighbours that remains, the larger one of both directions (Crété et
    al., 2007, "The blur effect"). A picture without differences has the value 0.
    """
    grey = np.asarray(image.convert("L"), dtype=np.int16)
    return max(_share_left(grey), _share_left(grey.T))


def _share_left(grey: NDArray[np.int16]) -> float:
    """The share of the differences between neighbours in a row that is left after averaging over WINDOW px."""
    if grey.shape[1] <= WINDOW:
        return 0.0
    middle = WINDOW // 2
    sharp = WINDOW * np.abs(np.diff(grey[:, middle : grey.shape[1] - middle], axis=1))
    # two neighbouring averages differ by the pixel that enters the window and the one that leaves it
    averaged = np.abs(grey[:, WINDOW:] - grey[:, :-WINDOW])
    total, lost = int(sharp.sum()), int(np.maximum(sharp - averaged, 0).sum())
    return (total - lost) / total if total else 0.0


def contrast_of(image: Image.Image) -> float:
    """The standard deviation of an RGB picture's levels (0 to 255), in the channel where it is largest."""
    return max(ImageStat.Stat(image).stddev)
