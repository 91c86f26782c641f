"""Pictures inside a page, as data: the page is one file and works wherever it is put."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path

from PIL import Image

from etude.errors import InputError


def inline(path: Path, most: int | None = None) -> str:
    """A ``data:`` address of the picture as PNG, scaled down to ``most`` pixels on its longest side.

    Raises InputError when it is missing or no picture.
    """
    picture = shrink(path, most)
    data = BytesIO()
    picture.save(data, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def shrink(path: Path, most: int | None) -> Image.Image:
    """The picture in RGB, at most ``most`` pixels on its longest side."""
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except FileNotFoundError:
        raise InputError(path, "is missing", "run `dvc repro` so that the stage that makes it runs first") from None
    except OSError as error:
        raise InputError(path, f"is no picture ({error})", "delete it and run `dvc repro`") from error
    if most and max(picture.size) > most:
        picture.thumbnail((most, most), Image.Resampling.LANCZOS)
    return picture
