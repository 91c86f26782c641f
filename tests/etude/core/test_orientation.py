"""Which way up a picture is: training and evaluation see it as EXIF says, else as other notes in it say."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from etude.core.orientation import TAG
from etude.images.decode import TURN, UNSEEN, read_picture
from etude.rendering.pixels import open_picture

WHITE = (255, 255, 255)
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description {}/></x:xmpmeta>'
ATTRIBUTE, ELEMENT = 'tiff:Orientation="{}"', "/><tiff:Orientation>{}</tiff:Orientation><a"
LYING, UPRIGHT = (60, 40), (40, 60)


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[TAG] = orientation
    return data.tobytes()


def raw(orientation: int) -> str:
    """As ImageMagick writes EXIF into a text of a PNG."""
    data = exif(orientation)
    return f"\nexif\n{len(data):8}\n{data.hex()}\n"


def png(path: Path, xmp: str = "", text: str = "", exif: bytes | None = None) -> Path:
    info = PngInfo()
    if xmp:
        info.add_itxt("XML:com.adobe.xmp", xmp)
    if text:
        info.add_text("Raw profile type exif", text, zip=True)
    Image.new("RGB", LYING).save(path, pnginfo=info, **({"exif": exif} if exif else {}))
    return path


@pytest.mark.parametrize(
    ("notes", "size", "told"),
    [
        ({"exif": exif(6)}, UPRIGHT, ()),
        ({"text": raw(6)}, UPRIGHT, (UNSEEN,)),
        ({"xmp": XMP.format(ATTRIBUTE.format(8))}, UPRIGHT, (UNSEEN,)),
        ({"xmp": XMP.format(ELEMENT.format(6))}, UPRIGHT, (UNSEEN,)),
        ({"xmp": XMP.format(ATTRIBUTE.format(1))}, LYING, ()),
        ({"xmp": XMP.format(ATTRIBUTE.format(9))}, LYING, ()),
        ({"exif": exif(1), "xmp": XMP.format(ATTRIBUTE.format(6)), "text": raw(6)}, LYING, ()),
        ({"exif": exif(6), "xmp": XMP.format(ATTRIBUTE.format(1))}, UPRIGHT, ()),
        ({"text": raw(6), "xmp": XMP.format(ATTRIBUTE.format(1))}, UPRIGHT, (UNSEEN,)),
        ({"text": "\nexif\n 4\nno numbers"}, LYING, (TURN,)),
    ],
)
def test_a_png_lies_as_its_exif_says_else_its_text_else_its_xmp(
    tmp_path: Path, notes: dict[str, str], size: tuple[int, int], told: tuple[str, ...]
) -> None:
    path = png(tmp_path / "a.png", **notes)
    picture = read_picture(path, WHITE)
    assert (picture.image.size, picture.size, picture.notes) == (size, size, told)
    assert open_picture(path).size == size


@pytest.mark.parametrize("suffix", ["jpg", "webp", "avif", "tif"])
def test_the_xmp_of_other_formats_turns_a_picture_whose_exif_says_nothing(tmp_path: Path, suffix: str) -> None:
    xmp = XMP.format(ATTRIBUTE.format(6)).encode()
    image = Image.new("RGB", LYING)
    tags = {"tiffinfo": {700: xmp}} if suffix == "tif" else {"xmp": xmp}
    image.save(tmp_path / f"a.{suffix}", **tags)
    picture = read_picture(tmp_path / f"a.{suffix}", WHITE)
    assert picture.image.size == picture.size == UPRIGHT
    if suffix != "tif":  # Pillow turns it when it is loaded; evaluation reads no TIFF
        assert picture.notes == (UNSEEN,)
        assert open_picture(tmp_path / f"a.{suffix}").size == UPRIGHT


def test_damaged_exif_spoils_no_picture_of_the_evaluation(tmp_path: Path) -> None:
    Image.new("RGB", LYING).save(tmp_path / "a.jpg", exif=b"Exif\0\0XX*\0 no byte order")
    assert read_picture(tmp_path / "a.jpg", WHITE).notes == (TURN,)
    assert open_picture(tmp_path / "a.jpg").size == LYING
