"""Reading picture files. Nothing here imports torch, because pages read pictures too."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from etude.core.colours import flatten, in_srgb
from etude.core.errors import InputError, UnusableError
from etude.core.orientation import orientation_of, turned
from etude.core.pictures import open_whole
from etude.core.store import key

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP")
PICTURE = (
    "picture",
    "checkpoint",
    "prompt",
    "seed",
)  # columns of pictures.csv that identify a picture; the others are its numbers


def open_picture(path: Path) -> Image.Image:
    """The picture in sRGB on white, upright.

    Raises InputError if the file is missing, damaged, no picture, or cannot be converted to correct RGB.
    """
    try:
        image = open_whole(path, *FORMATS)
        orientation = orientation_of(image)
        return turned(flatten(in_srgb(image)[0], (255, 255, 255)), orientation)
    except FileNotFoundError:
        raise InputError(path, "is missing", "run `dvc repro` so that the stage that makes it runs first") from None
    except UnusableError as error:
        raise InputError(path, str(error), "save it as PNG or JPEG of 8 bits") from error
    except OSError as error:
        action = "if a stage made it, delete it and run `dvc repro`; otherwise save it again as PNG or JPEG"
        raise InputError(path, f"cannot be read as a picture ({error})", action) from error


def pixel_digest(picture: Image.Image) -> str:
    """Hex digest of size and pixels: equal for equal pictures in different files."""
    return key(list(picture.size), picture.convert("RGB").tobytes())
