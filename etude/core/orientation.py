"""Which way up a picture is: by EXIF, else by a PNG's text "Raw profile type exif", else by XMP.

Browsers and libvips use EXIF, and Pillow uses it first. If EXIF says nothing, the other two are read, as Pillow and
macOS do: ImageMagick writes the text, and macOS and exiftool turn a PNG only in its XMP. Such a turn is noted.
"""

from __future__ import annotations

import warnings

from PIL import Image
from PIL.ExifTags import Base

from etude.core.pictures import DAMAGE

TAG = int(Base.Orientation)
SIDEWAYS = (5, 6, 7, 8)  # the values that swap width and height
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation_of(image: Image.Image) -> int | None:
    """The orientation of a loaded picture; None if its EXIF is damaged, which does not affect the pixels."""
    try:
        orientation = image.getexif().get(TAG)
        if orientation is None and (data := image.info.get("exif")):
            # Read the data a second time: `getexif` hides what is wrong with them.
            with warnings.catch_warnings(action="error"):
                Image.Exif().load(data)
        return int(orientation or 1)
    except (*DAMAGE, UserWarning):
        return None


def is_beside_exif(image: Image.Image) -> bool:
    """Whether a picture is turned by something other than EXIF: browsers ignore such a turn."""
    if orientation_of(image) not in TURNS:
        return False
    exif = Image.Exif()
    exif.load(image.info.get("exif") or b"")
    return TAG not in exif


def turned(image: Image.Image, orientation: int | None) -> Image.Image:
    """The picture upright."""
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image
