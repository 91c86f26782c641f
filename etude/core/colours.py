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
FEWER = WHITE // 16  # with no value above this, only twelve of sixteen bits are used: it would be almost black
FAR = 16  # levels, of 255: every profile of sRGB differs from Pillow's by less
FEWER_BITS = "they seem to be of fewer bits; scale them to 16"


def in_srgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """The picture in sRGB if it has a profile, embedded or of described colours (phones write Display P3).

    Without a profile its pixels stay as they are. The second value is False if it has a profile that cannot be used.
    Neither ``image`` nor the result keeps a profile: Pillow would save it in a file whose pixels it no longer fits.
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
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # damaged, or for another mode: the pixels stay
        return image, False
    converted.info.pop("icc_profile", None)  # Pillow's sRGB profile, which contains the time of its creation
    return converted, True


@lru_cache(maxsize=16)  # the pictures of a set have few different profiles
def _is_srgb(data: bytes) -> bool:
    """Whether a profile is called sRGB and is near it, unlike "Display P3 Gamut with sRGB Transfer" and linear sRGB."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
    if "sRGB" not in ImageCms.getProfileDescription(profile) or profile.profile.xcolor_space.strip() != "RGB":
        return False
    values = np.arange(0, 256, 15, dtype=np.uint8)
    probe = np.stack(np.meshgrid(values, values, values[::6]), axis=-1).reshape(len(values), -1, 3)
    converted = np.asarray(_converted(Image.fromarray(probe), profile, "RGB"))
    return bool(np.abs(converted.astype(int) - probe).max() < FAR)


def _through(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    """The pixels as RGB, or RGBA if some are transparent; raises PyCMSError if the profile is for another mode."""
    direct = image
    if image.mode in ("P", "PA"):
        direct = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif image.mode == "1":
        direct = image.convert("L")
    elif image.mode in ("L", "RGB") and image.has_transparency_data:  # one colour is transparent, by its value
        direct = image.convert(f"{image.mode}A")
    if direct.mode != "LA":
        return _converted(direct, profile, "RGBA" if direct.mode == "RGBA" else "RGB")
    coloured = _converted(direct.getchannel("L"), profile, "RGB")  # Pillow cannot convert grey with alpha
    coloured.putalpha(direct.getchannel("A"))
    return coloured


def _converted(image: Image.Image, profile: ImageCms.ImageCmsProfile, mode: str) -> Image.Image:
    converted = ImageCms.profileToProfile(image, profile, SRGB, outputMode=mode)
    assert converted is not None  # it is None only if the conversion is in place
    return converted


def flatten(image: Image.Image, background: Colour, white: int = WHITE) -> Image.Image:
    """Any mode as RGB; transparent pixels are drawn over ``background``.

    ``white`` is the value of white in grey of more than eight bits. Raises UnusableError if that value is not known,
    and for a picture that is transparent everywhere.
    """
    if image.mode == "F":
        raise UnusableError("its pixels are floating-point numbers, and no standard says which of them is white")
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
    """How opaque each pixel is, in mode L: 255 hides the background of `flatten`. None if all pixels are 255."""
    if not image.has_transparency_data:
        return None
    alpha = _with_alpha(image).getchannel("A")
    return None if alpha.getextrema() == (255, 255) else alpha


def _with_alpha(image: Image.Image) -> Image.Image:
    direct = image.convert("LA") if image.mode == "La" else image
    return direct if direct.mode == "RGBA" else direct.convert("RGBA")  # no second copy of a large picture


def refuse_dark(image: Image.Image) -> None:
    """Raise UnusableError for colours of sixteen bits, decoded to eight, that use only twelve bits or fewer."""
    if image.mode in ("RGB", "RGBA"):
        brightest = np.asarray(image)[..., :3].max()
        if 0 < brightest < 256 // 16:
            raise UnusableError(f"its 16-bit colours end at {brightest} of 255: {FEWER_BITS}")


def _eight_bits(image: Image.Image, white: int) -> Image.Image:
    """Grey of more than eight bits, scaled to eight: Pillow's conversion clips at 255 and turns such pictures white."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > white:
        raise UnusableError(f"its grey has values outside 0 … {white}, and no standard says which of them is white")
    if white == WHITE and 0 < values.max() <= FEWER:
        raise UnusableError(f"its 16-bit grey ends at {values.max()} of {WHITE}: {FEWER_BITS}")
    scaled = values.astype(np.uint32)  # computed in place: a 16-bit scan may have the largest size that Pillow opens
    scaled *= 255
    scaled += white // 2
    scaled //= white
    return Image.fromarray(scaled.astype(np.uint8))
