"""Read any picture as upright, opaque, eight-bit sRGB; say why where that is not possible."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from etude.core.errors import InputError

Size = tuple[int, int]  # width, height
Colour = tuple[int, int, int]

# Named, so that no reader with a weak signature takes a stray file for a picture and none that runs programs is used.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "QOI", "ICO")
# What Pillow's readers raise for damaged files: a broken one must be listed, not end the stage with a traceback.
DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, OverflowError, RuntimeError, MemoryError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values that swap width and height
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SRGB = ImageCms.createProfile("sRGB")


class Picture(NamedTuple):
    """An upright RGB image, perhaps decoded smaller, and the upright size [w, h] of the file's full pixels."""

    image: Image.Image
    size: Size


def read_picture(path: Path | str, background: Colour, enough: Callable[[Size], Size] | None = None) -> Picture:
    """The first frame of ``path``: EXIF rotation applied, transparency composited on ``background``, in sRGB.

    ``enough`` tells from the full upright size how many pixels will do. A JPEG is then decoded at 1/2, 1/4 or 1/8,
    never below that (its DCT scales for free: three times faster on 12 megapixels). Raises InputError with the reason
    when the file is not a picture or is damaged.
    """
    path = Path(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata and very large pictures: read them, or fail below
        try:
            with Image.open(path, formats=FORMATS) as image:
                return _upright(image, background, enough)
        except UnidentifiedImageError:
            raise InputError(path, _not_a_picture(path), "leave it out, or save it as PNG or JPEG") from None
        except DAMAGE as error:
            detail = str(error).replace(str(path), path.name) or "no detail"
            fault = f"cannot be decoded ({type(error).__name__}: {detail.splitlines()[0]})"
            raise InputError(path, fault, "leave it out, or save it again") from error


def _upright(image: Image.Image, background: Colour, enough: Callable[[Size], Size] | None) -> Picture:
    size = image.size
    sideways = _orientation(image) in SIDEWAYS
    if enough is not None and image.format in ("JPEG", "MPO"):
        wanted = enough(size[::-1] if sideways else size)
        image.draft(None, wanted[::-1] if sideways else wanted)  # None keeps the mode
    image.load()
    flat = flatten(in_srgb(image), background)
    orientation = _orientation(image)  # asked again: a PNG may tell after its pixels
    upright = flat.transpose(TURNS[orientation]) if orientation in TURNS else flat
    return Picture(upright, size[::-1] if orientation in SIDEWAYS else size)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except DAMAGE:  # damaged metadata does not spoil the pixels
        return 1


def in_srgb(image: Image.Image) -> Image.Image:
    """RGB, RGBA and CMYK pixels with an embedded profile as sRGB (phones write Display P3); others as they are."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK"):
        return image
    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(embedded):
            return image
        converted = ImageCms.profileToProfile(
            image, embedded, SRGB, outputMode="RGB" if image.mode == "CMYK" else image.mode
        )
    except (ImageCms.PyCMSError, OSError):  # a damaged profile, or one for other pixels: the numbers still stand
        return image
    return image if converted is None else converted


def flatten(image: Image.Image, background: Colour) -> Image.Image:
    """Any mode as RGB; whatever lies hidden under transparency is covered by ``background``."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed white")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _eight_bits(image).convert("RGB")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    ground = Image.new("RGBA", image.size, (*background, 255))
    ground.alpha_composite(image.convert("RGBA"))
    return ground.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Sixteen-bit grey scaled to eight: Pillow's own conversion clips at 255 and turns such pictures white."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("pixel values outside 0 … 65535")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def fault_of(path: Path | str) -> str | None:
    """Why a file is no picture, by its first bytes alone; None when it claims to be one. Its pixels are not read."""
    path = Path(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            Image.open(path, formats=FORMATS).close()
        except UnidentifiedImageError:
            return _not_a_picture(path)
        except DAMAGE as error:
            return f"cannot be opened ({type(error).__name__})"
    return None


def _not_a_picture(path: Path) -> str:
    with open(path, "rb") as file:
        head = file.read(12)
    if not head:
        return "is empty"
    if head[4:8] == b"ftyp" and head[8:11] in (b"hei", b"hev", b"mif", b"msf"):
        return "is HEIC, which Pillow does not read"
    return "is not a picture of a known format"
