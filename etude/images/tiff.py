"""TIFF: the kinds that Pillow misreads, refused by name, and what libtiff reports of damaged ones."""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, ImagePalette
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from etude.core.colours import WHITE
from etude.core.errors import UnusableError
from etude.core.jpeg_data import ends_early
from etude.core.pictures import CUT
from etude.images.kinds import camera_raw

# Tags of TIFF 6.0, and of DNG.
KIND, BITS, COMPRESSION, PHOTOMETRIC, COUNTS, PLANES = 254, 258, 259, 262, 279, 284
PALETTE, SAMPLE_FORMAT, DNG = 320, 339, 50706
STRIPS, TILES, TILE_COUNTS, TABLES, WEIGHTS, LEVELS = 273, 324, 325, 347, 529, 532
REDUCED = 1  # the bit of KIND that marks a preview
RAW, SEPARATE, SIGNED, WHITE_IS_ZERO, YCBCR = 1, 2, 2, 0, 6  # values of COMPRESSION, PLANES, SAMPLE_FORMAT, PHOTOMETRIC
OLD_JPEG, JPEG = 6, 7  # of COMPRESSION
OLD_JPEG_FILE, OLD_JPEG_TABLES = 513, 519
USUAL_WEIGHTS, USUAL_LEVELS = (0.299, 0.587, 0.114), (0, 255, 128, 255, 128, 255)  # of JPEG's YCbCr

# Names of libtiff's functions mix small and capital letters (ZIPDecode), unlike "warning" and "INFO".
FUNCTION = rb"tempfile\.tif|(?!\w*(?:Error|Warning|Exception):)(?=\w*[a-z])[A-Za-z_]\w*[A-Z]\w*"
# libtiff's lines, at the start of a line or after the frame of a progress bar, which has no line end.
LINE = re.compile(rb"(^|\r|\x1b\[[\d;?]*[A-Za-z])((?:" + FUNCTION + rb"): [^\r\n]*)\r?\n", re.MULTILINE)


def refuse_misread(image: TiffImageFile) -> None:
    """Raise UnusableError for a TIFF file that Pillow opens and would decode to wrong pixels. Nothing is decoded."""
    tags = image.tag_v2
    bits = max(tags.get(BITS, (1,)))
    raw = tags.get(COMPRESSION, RAW) == RAW
    if tags.get(COMPRESSION) == OLD_JPEG and OLD_JPEG_FILE not in tags and OLD_JPEG_TABLES not in tags:
        raise UnusableError("its old kind of JPEG has no tables, so it cannot be decoded rightly")
    places = tags.get(STRIPS) or tags.get(TILES) or ()
    if len(places) > 1 and (0 in places or len(set(places)) < len(places)):
        raise UnusableError("some of its strips or tiles have no offset, or the same one as others")
    if DNG in tags:
        raise UnusableError(camera_raw("DNG"))
    if tags.get(KIND, 0) & REDUCED:
        raise UnusableError("begins with a small preview, as cameras' raw files do: convert it to JPEG or a plain TIFF")
    if raw and bits == 16 and tags.get(PLANES) == SEPARATE:
        raise UnusableError("keeps 16-bit colours in separate planes, which Pillow misreads")
    if SIGNED in tags.get(SAMPLE_FORMAT, ()) or image.mode == "I":
        raise UnusableError("its pixels are signed or 32-bit integers, and no standard says which of them is white")
    if bits == 16 and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        raise UnusableError("its 16-bit grey is 0 at white, which Pillow misreads")
    if raw and tags.get(PHOTOMETRIC) == YCBCR and not _has_usual_ycbcr(tags):
        raise UnusableError("its colours (YCbCr) have other weights or another range than JPEG's, which Pillow ignores")
    full = image.width * image.height * len(image.getbands())
    if raw and tags.get(PHOTOMETRIC) == YCBCR and sum(tags.get(COUNTS, ())) not in (0, full):
        raise UnusableError("its colours (YCbCr) are subsampled and not compressed, which Pillow misreads")


def _has_usual_ycbcr(tags: Mapping[int, Any]) -> bool:
    weights, levels = tags.get(WEIGHTS, USUAL_WEIGHTS), tags.get(LEVELS, USUAL_LEVELS)
    near = [abs(a - b) < 1e-3 for a, b in zip((*weights, *levels), (*USUAL_WEIGHTS, *USUAL_LEVELS), strict=False)]
    return all(near)


def check_jpegs(image: TiffImageFile, path: Path) -> None:
    """Raise OSError if a strip or tile in JPEG lacks some of its pixels, which libtiff does not report."""
    tags = image.tag_v2
    if tags.get(COMPRESSION) != JPEG:
        return
    tables = tags.get(TABLES, b"")[:-2]  # without the end marker
    with open(path, "rb") as file:
        for place, count in zip(tags.get(STRIPS) or tags[TILES], tags.get(COUNTS) or tags[TILE_COUNTS], strict=True):
            file.seek(place)
            data = file.read(count)
            whole = tables + data[2:] if tables else data
            try:
                with JpegImageFile(io.BytesIO(whole)) as strip:
                    strip.load()
            except (OSError, SyntaxError) as error:
                if "truncated" in str(error):
                    raise OSError(CUT) from error
                continue  # a kind of JPEG that only libtiff reads
            if ends_early(strip, whole):
                raise OSError(CUT)


def white_of(image: Image.Image) -> int:
    """The value of white in a picture's grey of more than eight bits."""
    bits = image.tag_v2.get(BITS, (16,)) if isinstance(image, TiffImageFile) else (16,)
    return (1 << 12) - 1 if bits == (12,) else WHITE


def widen_palette(image: TiffImageFile) -> None:
    """Read a palette of eight-bit values correctly: some programs write these, but the format has sixteen bits."""
    values = image.tag_v2.get(PALETTE, ())
    if image.mode in ("P", "PA") and values and max(values) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(values))


@contextmanager
def libtiff_errors() -> Iterator[list[str]]:
    """The lines that libtiff writes to the process's stderr within the block; on exit they are in the list.

    Each line means wrong pixels, even if Pillow continues, because libtiff's warnings are off. Lines name no file. What
    other threads write within the block, such as a progress bar, is written to stderr on exit.
    """
    lines: list[str] = []
    try:
        saved = os.dup(2)
    except OSError:  # a process without stderr
        yield lines
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            sink.seek(0)
            written = sink.read()
            lines += [line.decode(errors="replace") for _, line in LINE.findall(written)]
            if others := LINE.sub(rb"\1", written):
                os.write(2, others)
