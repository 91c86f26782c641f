"""Pixels of any mode as opaque, eight-bit sRGB."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from etude.core.described_colours import KEY
from etude.core.errors import UnusableError

Colour = tuple[int, int, int]
SRGB = ImageCms.createProfile("sRGB")
WHITE = 65535  # of sixteen bits
FEWER = WHITE // 16  # a picture that ends here holds twelve bits, or fewer, in sixteen: it would be almost black
FAR = 16  # levels of 255 by which no profile of sRGB differs from Pillow's
FEWER_BITS = "they seem to be of fewer bits; scale them to 16"


def in_srgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """Pixels with a profile, embedded or of described colours, as sRGB (phones write Display P3); others as they are.

    The second value is False when there is a profile that cannot be used. No profile is left in ``image`` or in what
    is returned: Pillow would write it into every file that is saved of them, where it no longer fits the pixels.
    """
    profile, described = image.info.pop("icc_profile", None), image.info.pop(KEY, None)
    if described and image.mode in ("L", "LA", "1"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    profile = described or profile
    if not profile:
        return image, True
    try:
        if image.mode != "CMYK" and _is_srgb(profile):
            return image, True
        converted = _through(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # damaged, or for other pixels: the numbers are right
        return image, False
    converted.info.pop("icc_profile", None)  # Pillow's sRGB, which holds the time of its making
    return converted, True


@lru_cache(maxsize=16)  # the pictures of a set have few different ones
def _is_srgb(data: bytes) -> bool:
    """Whether it is called sRGB and is near it, unlike "Display P3 Gamut with sRGB Transfer" and linear sRGB."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
    if "sRGB" not in ImageCms.getProfileDescription(profile) or profile.profile.xcolor_space.strip() != "RGB":
        return False
    values = np.arange(0, 256, 15, dtype=np.uint8)
    probe = np.stack(np.meshgrid(values, values, values[::6]), axis=-1).reshape(len(values), -1, 3)
    converted = np.asarray(_converted(Image.fromarray(probe), profile, "RGB"))
    return bool(np.abs(converted.astype(int) - probe).max() < FAR)


def _through(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    """The pixels as RGB, or RGBA where some are transparent; raises PyCMSError where the profile is of other pixels."""
    direct = image
    if image.mode in ("P", "PA"):
        direct = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif image.mode == "1":
        direct = image.convert("L")
    elif image.mode in ("L", "RGB") and image.has_transparency_data:  # one colour is transparent, by its value
        direct = image.convert(f"{image.mode}A")
    if direct.mode != "LA":
        return _converted(direct, profile, "RGBA" if direct.mode == "RGBA" else "RGB")
    coloured = _converted(direct.getchannel("L"), profile, "RGB")  # Pillow converts no grey with alpha
    coloured.putalpha(direct.getchannel("A"))
    return coloured


def _converted(image: Image.Image, profile: ImageCms.ImageCmsProfile, mode: str) -> Image.Image:
    converted = ImageCms.profileToProfile(image, profile, SRGB, outputMode=mode)
    assert converted is not None  # it is, where the conversion is in place
    return converted


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
    coloured = _with_alpha(image)
    if coloured.getchannel("A").getextrema()[1] == 0:
        raise UnusableError("shows nothing: every pixel is transparent")
    ground = Image.new("RGBA", image.size, (*background, 255))
    ground.alpha_composite(coloured)
    return ground.convert("RGB")


def opacity(image: Image.Image) -> Image.Image | None:
    """How opaque each pixel is, in mode L: 255 hides all that `flatten` puts below. None where all pixels do."""
    if not image.has_transparency_data:
        return None
    alpha = _with_alpha(image).getchannel("A")
    return None if alpha.getextrema() == (255, 255) else alpha


def _with_alpha(image: Image.Image) -> Image.Image:
    direct = image.convert("LA") if image.mode == "La" else image
    return direct if direct.mode == "RGBA" else direct.convert("RGBA")  # no second copy of a large picture


def refuse_dark(image: Image.Image) -> None:
    """Raise UnusableError for colours, decoded from sixteen bits, that fill twelve bits or fewer."""
    if image.mode in ("RGB", "RGBA"):
        brightest = np.asarray(image)[..., :3].max()
        if 0 < brightest < 256 // 16:
            raise UnusableError(f"its 16-bit colours end at {brightest} of 255: {FEWER_BITS}")


def _eight_bits(image: Image.Image, white: int) -> Image.Image:
    """Grey of more bits scaled to eight: Pillow's own conversion clips at 255 and turns such pictures white."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > white:
        raise UnusableError(f"its grey has values outside 0 … {white}, without an agreed white")
    if white == WHITE and 0 < values.max() <= FEWER:
        raise UnusableError(f"its 16-bit grey ends at {values.max()} of {WHITE}: {FEWER_BITS}")
    scaled = values.astype(np.uint32)  # in place: a scan in 16 bits may be as large as Pillow opens
    scaled *= 255
    scaled += white // 2
    scaled //= white
    return Image.fromarray(scaled.astype(np.uint8))
