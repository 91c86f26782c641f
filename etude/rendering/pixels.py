"""Picture files as pixels. Nothing here imports torch: pages open pictures too."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

from etude.core.errors import InputError
from etude.core.store import key

PICTURE = (
    "picture",
    "checkpoint",
    "prompt",
    "seed",
)  # columns that say which picture; others are its numbers


def open_picture(path: Path) -> Image.Image:
    """The picture in RGB, upright as a camera meant it; raises InputError when the file is missing or no picture."""
    try:
        with Image.open(path) as file:
            return ImageOps.exif_transpose(file).convert("RGB")
    except FileNotFoundError:
        raise InputError(path, "is missing", "run `dvc repro` so that the stage that makes it runs first") from None
    except OSError as error:
        raise InputError(path, f"is no picture ({error})", "delete it and run `dvc repro`") from error


def pixel_digest(picture: Image.Image) -> str:
    """Hex digest of size and pixels: equal pictures are one, whatever file holds them."""
    return key(list(picture.size), picture.convert("RGB").tobytes())
