"""Read any picture as upright, opaque, eight-bit sRGB; say why if that is not possible."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from etude.core.colours import Colour, flatten, in_srgb, opacity, refuse_dark
from etude.core.errors import InputError, UnusableError
from etude.core.orientation import SIDEWAYS, is_beside_exif, orientation_of, turned
from etude.core.pictures import BOXES, DAMAGE, JPEGS, describe, load_whole
from etude.images import avif, jpeg2000, tiff
from etude.images.kinds import formats, not_a_picture

Size = tuple[int, int]  # width, height
LARGEST_JPEG = 500_000_000  # pixels, as it is decoded smaller. The limit of all other formats is Pillow's own
# Notes about a picture that is used.
FIRST = "only the first frame or page is used"
PROFILE = "the colour profile is damaged, or of other pixels, and not applied"
INKS = "CMYK without a colour profile: the colours are not exact"
TURN = "the EXIF data are damaged, so it may lie on its side"
UNSEEN = "turned as its XMP or a text in it says, not EXIF: browsers show it as it was"


class Picture(NamedTuple):
    """An upright RGB image, perhaps decoded smaller; the upright full size [w, h] of the file; and notes.

    ``alpha`` is the opacity of its pixels (mode L, of the image's size); None if all are fully opaque.
    """

    image: Image.Image
    size: Size
    notes: tuple[str, ...] = ()
    alpha: Image.Image | None = None


def read_picture(path: Path | str, background: Colour, enough: Callable[[Size], Size] | None = None) -> Picture:
    """The first frame of ``path``: EXIF rotation applied, transparency composited on ``background``, in sRGB.

    ``enough`` returns, for the full upright size, a size that is large enough. A JPEG is then decoded at 1/2, 1/4 or
    1/8, but never smaller than that (its DCT scales at no cost: three times faster on 12 megapixels). Raises InputError
    with the reason if the file is not a picture, is damaged, or cannot be converted to the right pixels.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings(action="ignore"), _opened(path) as image:  # odd metadata, large pictures
            return _upright(image, path, background, enough)
    except UnidentifiedImageError:
        raise InputError(path, not_a_picture(path), "leave it out, or save it as PNG or JPEG") from None
    except UnusableError as error:
        raise InputError(path, str(error), "leave it out, or save it as PNG or JPEG of 8 bits") from None
    except DAMAGE as error:
        if fault := _too_large(error):
            raise InputError(path, fault, "leave it out, or save it with fewer pixels") from error
        fault = f"cannot be decoded ({describe(error, path)})"
        raise InputError(path, fault, "leave it out, or save it again") from error


def fault_of(path: Path | str) -> str | None:
    """Why a file is no picture, by its first bytes alone; None if it claims to be one. Its pixels are not read."""
    path = Path(path)
    try:
        with warnings.catch_warnings(action="ignore"), _opened(path) as image:
            _refuse_misread(image, path)
    except UnidentifiedImageError:
        return not_a_picture(path)
    except UnusableError as error:
        return str(error)
    except DAMAGE as error:
        large = _too_large(error)
        return f"{large}: make it smaller" if large else f"cannot be opened ({describe(error, path)})"
    return None


def _too_large(error: BaseException) -> str | None:
    if not isinstance(error, Image.DecompressionBombError):
        return None
    return f"has more than {_limit() / 1e6:.0f} megapixels (a JPEG: {LARGEST_JPEG / 1e6:.0f})"


def _opened(path: Path) -> ImageFile:
    """The opened file, not decoded yet. A JPEG may have more pixels than Pillow allows."""
    try:
        return Image.open(path, formats=formats())
    except Image.DecompressionBombError:
        with open(path, "rb") as file:
            if file.read(3) != b"\xff\xd8\xff":
                raise
        return JpegImageFile(path)


def _refuse_misread(image: ImageFile, path: Path) -> None:
    """Raise UnusableError for a kind of file whose pixels would come out wrong."""
    if isinstance(image, TiffImageFile):
        tiff.refuse_misread(image)
    if isinstance(image, Jpeg2KImageFile):
        jpeg2000.refuse_misread(image, path)
    if image.format in BOXES:
        avif.refuse_misread(path, image)
    if image.width * image.height > LARGEST_JPEG:  # only a JPEG can get here: other formats have a lower limit
        raise Image.DecompressionBombError


def _upright(image: ImageFile, path: Path, background: Colour, enough: Callable[[Size], Size] | None) -> Picture:
    _refuse_misread(image, path)
    size = image.size
    if enough is not None and image.format in JPEGS:
        sideways = orientation_of(image) in SIDEWAYS
        wanted = enough(size[::-1] if sideways else size)
        image.draft(None, wanted[::-1] if sideways else wanted)  # None keeps the mode
    if image.width * image.height > _limit():
        raise Image.DecompressionBombError
    sixteen, white = ";16" in str(image.tile[:1]), tiff.white_of(image)
    covered = image.tile[0].extents if image.format == "GIF" and image.tile else None
    _load(image, path)
    if isinstance(image, TiffImageFile):
        size = image.size  # Pillow turns a TIFF when it is loaded
    if sixteen:
        refuse_dark(image)
    inks = image.mode == "CMYK" and "icc_profile" not in image.info
    coloured, true_colours = in_srgb(_on_nothing(image, covered))
    flat = flatten(coloured, background, white)
    orientation = orientation_of(image)  # read now, as a PNG may have it after its pixels
    notes = {FIRST: _has_more(image), PROFILE: not true_colours, INKS: inks}
    notes |= {TURN: orientation is None, UNSEEN: is_beside_exif(image)}
    kept = tuple(note for note, holds in notes.items() if holds)
    alpha = opacity(coloured)
    upright = size[::-1] if orientation in SIDEWAYS else size
    return Picture(turned(flat, orientation), upright, kept, alpha and turned(alpha, orientation))


def _load(image: ImageFile, path: Path) -> None:
    """Load all pixels before any metadata are read: otherwise Pillow hides faults of the pixels."""
    if not isinstance(image, TiffImageFile):
        load_whole(image, path)
        return
    failure = None
    with tiff.libtiff_errors() as lines:
        try:
            load_whole(image, path)
        except DAMAGE as error:
            failure = error
    if lines:
        raise OSError(lines[0].removeprefix("tempfile.tif: "))
    if failure:
        raise failure
    tiff.check_jpegs(image, path)
    tiff.widen_palette(image)


def _on_nothing(image: Image.Image, covered: tuple[int, int, int, int] | None) -> Image.Image:
    """A GIF whose first frame covers only a part of it: as in browsers, the rest is transparent."""
    if covered is None or covered == (0, 0, *image.size):
        return image
    canvas = Image.new("RGBA", image.size)
    canvas.paste(image.convert("RGBA").crop(covered), covered[:2])
    return canvas


def _has_more(image: ImageFile) -> bool:
    """Whether the file has more frames or pages. The second picture of an HDR photo is none: it brightens the first."""
    return bool(getattr(image, "is_animated", False)) and b"hdrgm" not in image.info.get("xmp", b"")


def _limit() -> float:
    return 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else float("inf")
