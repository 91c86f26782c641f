"""Pixels of any mode as opaque, eight-bit sRGB."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms

from etude.core.pictures import UnusableError

Colour = tuple[int, int, int]
SRGB = ImageCms.createProfile("sRGB")
WHITE = 65535  # of sixteen bits
FEWER = WHITE // 16  # a picture that ends here holds twelve bits, or fewer, in sixteen: it would be almost black
FEWER_BITS = "they seem to be of fewer bits; scale them to 16"


def in_srgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """RGB, RGBA and CMYK pixels with an embedded profile as sRGB (phones write Display P3); others as they are.

    The second value is False when there is a profile that cannot be used.
    """
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK"):
        return image, True
    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(embedded):
            return image, True
        converted = ImageCms.profileToProfile(
            image, embedded, SRGB, outputMode="RGB" if image.mode == "CMYK" else image.mode
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # damaged, or for other pixels: the numbers are right
        return image, False
    if converted is None:
        return image, False
    converted.info.pop(
        "icc_profile", None
    )  # it holds the time of its making, and would be written into the prepared PNG
    return converted, True


def flatten(image: Image.Image, background: Colour, white: int = WHITE) -> Image.Image:
    """Any mode as RGB; whatever lies hidden under transparency is covered by ``background``.

    ``white`` is the white of grey in more than eight bits. Raises UnusableError where that is not known, and for a
    picture of which nothing shows.
    """
    if image.mode == "F":
        raise UnusableError("its floating-point pixels have no agreed white")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _eight_bits(image, white).convert("RGB")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    direct = image.convert("LA") if image.mode == "La" else image
    coloured = direct if direct.mode == "RGBA" else direct.convert("RGBA")  # no second copy of a large picture
    if coloured.getchannel("A").getextrema()[1] == 0:
        raise UnusableError("shows nothing: every pixel is transparent")
    ground = Image.new("RGBA", image.size, (*background, 255))
    ground.alpha_composite(coloured)
    return ground.convert("RGB")


def refuse_dark(image: Image.Image) -> None:
    """Raise UnusableError for colours, decoded from sixteen bits, that fill twelve bits or fewer."""
    if image.mode in ("RGB", "RGBA"):
        brightest = np.asarray(image)[..., :3].max()
        if 0 < brightest < 256 // 16:
            raise UnusableError(f"its 16-bit colours end at {brightest} of 255: {FEWER_BITS}")


def _eight_bits(image: Image.Image, white: int) -> Image.Image:
    """Grey of more bits scaled to eight: Pillow's own conversion clips at 255 and turns such pictures white."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > white:
        raise UnusableError(f"its grey has values outside 0 … {white}, without an agreed white")
    if white == WHITE and 0 < values.max() <= FEWER:
        raise UnusableError(f"its 16-bit grey ends at {values.max()} of {WHITE}: {FEWER_BITS}")
    return Image.fromarray(((values * 255 + white // 2) // white).astype(np.uint8))
