"""Reading picture files. Nothing here imports torch, because pages read pictures too."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

from etude.core.errors import InputError
from etude.core.pictures import open_whole
from etude.core.store import key

PICTURE = (
    "picture",
    "checkpoint",
    "prompt",
    "seed",
)  # columns of pictures.csv that identify a picture; the others are its numbers


def open_picture(path: Path) -> Image.Image:
    """The picture in RGB, rotated by its EXIF orientation; raises InputError if the file is missing or no picture."""
    try:
        return ImageOps.exif_transpose(open_whole(path, "PNG", "JPEG", "WEBP")).convert("RGB")
    except FileNotFoundError:
        raise InputError(path, "is missing", "run `dvc repro` so that the stage that makes it runs first") from None
    except OSError as error:
        raise InputError(path, f"is no picture ({error})", "delete it and run `dvc repro`") from error


def pixel_digest(picture: Image.Image) -> str:
    """Hex digest of size and pixels: equal for equal pictures in different files."""
    return key(list(picture.size), picture.convert("RGB").tobytes())
