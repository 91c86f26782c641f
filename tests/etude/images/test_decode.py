import random
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageDraw

from etude.core.errors import InputError
from etude.core.orientation import TAG, TURNS
from etude.images import decode
from etude.images.decode import FIRST, INKS, PROFILE, TURN, fault_of, read_picture
from etude.rendering.pixels import open_picture

WHITE = (255, 255, 255)
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def drawn(size: tuple[int, int] = (60, 40)) -> Image.Image:
    """A red picture with a blue top left corner, so that every turn and mirror image of it differs."""
    image = Image.new("RGB", size, RED)
    ImageDraw.Draw(image).rectangle((0, 0, size[0] // 3, size[1] // 4), fill=BLUE)
    return image


def pixels(path: Path, background: tuple[int, int, int] = WHITE) -> np.ndarray:
    picture = read_picture(path, background)
    assert picture.image.mode == "RGB"
    assert picture.image.size == picture.size
    return np.asarray(picture.image).astype(int)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_a_picture_is_turned_upright_as_its_exif_says(tmp_path: Path, orientation: int, suffix: str) -> None:
    undo = {6: 8, 8: 6}.get(orientation, orientation)  # the turn that makes the camera's picture from the upright one
    stored = drawn().transpose(TURNS[undo]) if orientation > 1 else drawn()
    exif = Image.Exif()
    exif[TAG] = orientation
    stored.save(tmp_path / f"a.{suffix}", exif=exif, quality=100)
    found = pixels(tmp_path / f"a.{suffix}")
    assert found.shape == (40, 60, 3)
    assert np.abs(found - np.asarray(drawn()).astype(int)).mean() < 6


def test_damaged_exif_does_not_spoil_the_pixels(tmp_path: Path) -> None:
    drawn().save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0garbage that is no directory", quality=100)
    assert pixels(tmp_path / "a.jpg").shape == (40, 60, 3)
    drawn().save(tmp_path / "b.jpg", exif=b"Exif\0\0XX*\0 no byte order")
    assert read_picture(tmp_path / "b.jpg", WHITE).notes == (TURN,)
    drawn().save(tmp_path / "c.jpg")
    assert read_picture(tmp_path / "c.jpg", WHITE).notes == ()


@pytest.mark.parametrize("background", [WHITE, (10, 200, 30)])
def test_colours_hidden_under_transparency_never_show(tmp_path: Path, background: tuple[int, int, int]) -> None:
    image = drawn().convert("RGBA")
    image.paste((0, 255, 0, 0), (20, 20, 60, 40))  # a fully transparent green
    image.paste((0, 0, 0, 128), (0, 30, 10, 40))
    image.save(tmp_path / "rgba.png")
    found = pixels(tmp_path / "rgba.png", background)
    assert tuple(found[30, 40]) == background
    assert np.abs(found[35, 5] - np.array(background) * 127 / 255).max() <= 1
    assert tuple(found[2, 2]) == BLUE


def test_palettes_grey_with_alpha_and_colour_keys_are_composited_too(tmp_path: Path) -> None:
    half = Image.new("RGBA", (8, 8), (*RED, 255))
    half.paste((0, 255, 0, 0), (4, 0, 8, 8))
    half.save(tmp_path / "half.webp", lossless=True, exact=True)
    half.convert("P").save(tmp_path / "bytes.png", transparency=bytes([255] * 255 + [0]))
    flat = Image.new("P", (8, 8), 0)
    flat.putpalette([*GREEN, *RED])
    flat.paste(1, (0, 0, 4, 8))
    flat.save(tmp_path / "index.png", transparency=0)
    flat.save(tmp_path / "index.gif", transparency=0)
    grey = Image.new("LA", (8, 8), (90, 255))
    grey.paste((7, 0), (4, 0, 8, 8))
    grey.save(tmp_path / "la.png")
    key = Image.new("RGB", (8, 8), RED)
    key.paste(GREEN, (4, 0, 8, 8))
    key.save(tmp_path / "key.png", transparency=GREEN)
    grey_left = {"la.png": (90, 90, 90)}
    for name in ("half.webp", "index.png", "index.gif", "la.png", "key.png"):
        found = pixels(tmp_path / name, (1, 2, 3))
        assert tuple(found[4, 6]) == (1, 2, 3), name
        assert tuple(found[4, 1]) == grey_left.get(name, RED), name
    assert pixels(tmp_path / "bytes.png").shape == (8, 8, 3)


def test_the_first_frame_of_an_animation_is_the_picture(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in (RED, GREEN, BLUE)]
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        assert tuple(pixels(tmp_path / name)[4, 4]) == RED, name
        assert read_picture(tmp_path / name, WHITE).notes == (FIRST,), name


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_a_picture_of_which_nothing_shows_is_refused(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGBA", (9, 9), (0, 0, 0, 0)), drawn((9, 9)).convert("RGBA")]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="shows nothing: every pixel is transparent"):
        read_picture(tmp_path / f"a.{suffix}", WHITE)


def test_what_the_first_frame_of_a_gif_does_not_cover_is_transparent(tmp_path: Path) -> None:
    drawn((20, 10)).save(tmp_path / "a.gif")
    data = bytearray((tmp_path / "a.gif").read_bytes())
    data[6:10] = b"\x28\0\x14\0"  # the canvas: 40 × 20
    (tmp_path / "a.gif").write_bytes(data)
    found = pixels(tmp_path / "a.gif", (1, 2, 3))
    assert found.shape == (20, 40, 3)
    assert (found[:10, :20] == np.asarray(drawn((20, 10)))).all()
    assert (found[10:] == (1, 2, 3)).all()
    assert (found[:, 20:] == (1, 2, 3)).all()


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    Image.fromarray(ramp).save(tmp_path / "a.tif")
    expected = np.rint(ramp / 257).astype(int)
    for name in ("a.png", "a.tif"):
        found = pixels(tmp_path / name)
        assert np.abs(found[..., 0] - expected).max() <= 1, name
        assert (found[..., 0] == found[..., 2]).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "RGB"])
def test_every_mode_becomes_rgb_with_about_the_same_colours(tmp_path: Path, mode: str) -> None:
    image = drawn().convert(mode)
    image.save(tmp_path / "a.tif")
    expected = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(pixels(tmp_path / "a.tif") - expected).mean() < 2


def test_a_cmyk_jpeg_is_not_inverted(tmp_path: Path) -> None:
    drawn().convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    assert np.abs(pixels(tmp_path / "a.jpg") - np.asarray(drawn()).astype(int)).mean() < 8


def test_pixels_without_an_agreed_white_are_refused_and_not_guessed(tmp_path: Path) -> None:
    Image.new("F", (9, 9), 0.5).save(tmp_path / "f.tif")
    Image.new("I", (9, 9), 1 << 20).save(tmp_path / "i.tif")
    for name in ("f.tif", "i.tif"):
        with pytest.raises(InputError, match="is white|outside 0"):
            read_picture(tmp_path / name, WHITE)


def test_a_camera_file_of_several_jpegs_is_read_as_its_first(tmp_path: Path) -> None:
    drawn((640, 480)).save(
        tmp_path / "a.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (640, 480), GREEN)]
    )
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format == "MPO"
    picture = read_picture(tmp_path / "a.jpg", WHITE, lambda _: (160, 120))
    assert picture.size == (640, 480)
    assert picture.image.size == (160, 120)
    assert np.abs(np.asarray(picture.image)[2, 2].astype(int) - BLUE).max() < 12


def test_an_embedded_profile_is_brought_to_srgb(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8), (200, 90, 40))
    wide = wide_profile()
    image.save(tmp_path / "wide.png", icc_profile=wide)
    image.save(tmp_path / "srgb.png", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    image.save(tmp_path / "broken.png", icc_profile=b"no profile")
    assert tuple(pixels(tmp_path / "srgb.png")[0, 0]) == (200, 90, 40)
    assert tuple(pixels(tmp_path / "broken.png")[0, 0]) == (200, 90, 40)
    red, green, blue = pixels(tmp_path / "wide.png")[0, 0]
    assert (red, green, blue) == (90, 200, 40)  # this profile's primaries are swapped
    notes = {name: read_picture(tmp_path / f"{name}.png", WHITE).notes for name in ("wide", "srgb", "broken")}
    assert notes == {"wide": (), "srgb": (), "broken": (PROFILE,)}


def as_bmp(path: Path, image: Image.Image, profile: bytes, kind: bytes = b"DEBM") -> Path:
    """A BMP of version 5, whose profile lies behind its pixels."""
    rows = image.tobytes("raw", "BGR", -(-3 * image.width // 4) * 4, -1)
    head = struct.pack("<IiiHHIIiiII", 124, image.width, image.height, 1, 24, 0, len(rows), 2835, 2835, 0, 0)
    head += bytes(16) + kind + bytes(36 + 12) + struct.pack("<IIII", 4, 124 + len(rows), len(profile), 0)
    path.write_bytes(struct.pack("<2sIHHI", b"BM", 138 + len(rows) + len(profile), 0, 0, 138) + head + rows + profile)
    return path


def test_a_profile_in_a_bmp_is_applied_and_one_that_lies_elsewhere_is_not(tmp_path: Path) -> None:
    image = Image.new("RGB", (7, 5), (200, 90, 40))
    assert tuple(pixels(as_bmp(tmp_path / "own.bmp", image, wide_profile()))[4, 6]) == (90, 200, 40)
    assert tuple(pixels(as_bmp(tmp_path / "link.bmp", image, b"C:/wide.icc", b"KNIL"))[0, 0]) == (200, 90, 40)
    assert tuple(pixels(as_bmp(tmp_path / "srgb.bmp", image, b"", b"BGRs"))[0, 0]) == (200, 90, 40)
    damaged = read_picture(as_bmp(tmp_path / "cut.bmp", image, wide_profile()[:100]), WHITE)
    assert damaged.notes == (PROFILE,)


def test_a_profile_is_applied_to_palettes_grey_and_transparent_colours_too(tmp_path: Path) -> None:
    colour, key = (200, 90, 40), (1, 2, 3)
    opaque = Image.new("RGB", (8, 8), colour)
    keyed = opaque.copy()
    keyed.putpixel((7, 7), key)
    covered = opaque.convert("RGBA")
    covered.putpixel((7, 7), (*key, 0))
    grey = Image.new("L", (8, 8), 128)
    grey.putpixel((7, 7), 3)
    palette = opaque.quantize(4)
    palette.save(tmp_path / "palette.png", icc_profile=wide_profile())
    covered.quantize(4).save(tmp_path / "palette_alpha.png", icc_profile=wide_profile())
    covered.save(tmp_path / "alpha.png", icc_profile=wide_profile())
    keyed.save(tmp_path / "key.png", icc_profile=wide_profile(), transparency=key)
    grey.save(tmp_path / "grey.png", icc_profile=grey_profile())
    grey.save(tmp_path / "grey_key.png", icc_profile=grey_profile(), transparency=3)
    Image.merge("LA", (grey, covered.getchannel("A"))).save(tmp_path / "grey_alpha.png", icc_profile=grey_profile())
    swapped, brighter = (90, 200, 40), (188, 188, 188)  # what the profiles make of them; 128 of 255 in linear light
    for path in tmp_path.glob("*.png"):
        found = pixels(path)
        assert np.abs(found[0, 0].astype(int) - (brighter if "grey" in path.stem else swapped)).max() <= 1, path.stem
        assert ("alpha" in path.stem or "key" in path.stem) == (tuple(found[7, 7]) == WHITE), path.stem
        assert read_picture(path, WHITE).notes == ()
        assert np.array_equal(np.asarray(open_picture(path)), found)  # evaluation sees the pixels of the training


def test_pixels_with_a_profile_of_srgb_stay_as_they_are_in_every_mode_but_cmyk(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for mode in ("L", "RGB", "CMYK"):
        noise = drawn().convert(mode)
        noise.save(tmp_path / "a.tif", icc_profile=profile)
        picture = read_picture(tmp_path / "a.tif", WHITE)
        assert np.array_equal(np.asarray(picture.image), np.asarray(noise.convert("RGB")))
        assert picture.notes == ((PROFILE,) if mode == "CMYK" else ())
        noise.save(tmp_path / "b.tif")
        assert read_picture(tmp_path / "b.tif", WHITE).notes == ((INKS,) if mode == "CMYK" else ())


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGB", "RGBA", "I;16"])
def test_a_profile_that_cannot_be_applied_is_noted_and_none_is_left_in_a_picture(tmp_path: Path, mode: str) -> None:
    other = (
        Image.fromarray(np.full((8, 8), 60000, np.uint16))
        if mode == "I;16"
        else Image.new(mode, (8, 8), int(mode != "P"))
    )
    if mode in ("LA", "RGBA"):
        other.putalpha(255)  # else nothing of it shows
    other.save(tmp_path / "other.png", icc_profile=grey_profile() if mode in ("P", "RGB", "RGBA") else wide_profile())
    Image.new("RGB", (8, 8)).save(tmp_path / "wide.png", icc_profile=wide_profile())
    Image.new("RGB", (8, 8)).save(tmp_path / "broken.png", icc_profile=b"no profile")
    for name in ("other", "wide", "broken"):
        picture = read_picture(tmp_path / f"{name}.png", WHITE)
        assert "icc_profile" not in picture.image.info
        assert picture.notes == (() if name == "wide" else (PROFILE,))


def grey_profile() -> bytes:
    """A profile of grey in linear light (ICC.1:2010): its white point and a curve without entries, the identity."""
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"grey\0" + bytes(78)
    tags = {
        b"desc": text + bytes(-len(text) % 4),
        b"wtpt": b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061),
    }
    tags[b"kTRC"] = b"curv" + bytes(8)
    table, body = b"", b""
    for name, data in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(data))
        body += data
    size = 132 + len(table) + len(body)
    head = struct.pack(">I4sI4s4s4s12s4s", size, b"lcms", 0x02100000, b"mntr", b"GRAY", b"XYZ ", bytes(12), b"acsp")
    head += bytes(68 - len(head)) + struct.pack(">3i", 63190, 65536, 54061)
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body


def wide_profile() -> bytes:
    """An sRGB profile with the red and green primaries exchanged: a conversion that nobody can overlook.

    Its description says sRGB, as that of Android's Display P3 does ("Display P3 Gamut with sRGB Transfer").
    """
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(data[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(data[131])}
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    data[red + 4 : red + 12], data[green + 4 : green + 12] = data[green + 4 : green + 12], data[red + 4 : red + 12]
    return bytes(data)


def test_a_wrong_suffix_does_not_hide_a_picture(tmp_path: Path) -> None:
    drawn().save(tmp_path / "really.png")
    (tmp_path / "really.png").rename(tmp_path / "claims.jpg")
    assert tuple(pixels(tmp_path / "claims.jpg")[0, 0]) == BLUE


def test_a_large_jpeg_is_decoded_smaller_but_never_below_what_is_enough(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[TAG] = 6
    drawn((1600, 1200)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    drawn((1600, 1200)).save(tmp_path / "a.png")
    asked = []

    def enough(size: tuple[int, int]) -> tuple[int, int]:
        asked.append(size)
        return 290, 390

    picture = read_picture(tmp_path / "a.jpg", WHITE, enough)
    assert asked == [(1200, 1600)]  # the upright size
    assert picture.size == (1200, 1600)
    assert picture.image.size == (300, 400)
    full = read_picture(tmp_path / "a.jpg", WHITE).image.resize((300, 400), Image.Resampling.BOX)
    assert np.abs(np.asarray(full).astype(int) - np.asarray(picture.image).astype(int)).mean() < 1
    assert read_picture(tmp_path / "a.png", WHITE, enough).image.size == (1600, 1200)


@pytest.mark.parametrize("options", [{"progressive": True}, {"restart_marker_rows": 1}, {}], ids=str)
@pytest.mark.parametrize("grey", [False, True])
def test_a_large_jpeg_that_is_decoded_smaller_is_whole_whatever_its_form(
    tmp_path: Path, options: dict[str, Any], grey: bool
) -> None:
    image = Image.new("RGB", (640, 480), (128, 128, 128)) if grey else drawn((640, 480))
    image.save(tmp_path / "a.jpg", **options)
    assert read_picture(tmp_path / "a.jpg", WHITE, lambda _: (160, 120)).image.size == (160, 120)


def test_a_picture_too_large_to_be_meant_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn((200, 100)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9000)
    with pytest.raises(InputError, match="has more than 0 megapixels"):
        read_picture(tmp_path / "a.png", WHITE)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15000)  # Pillow would only warn here, and warnings are errors
    assert pixels(tmp_path / "a.png").shape == (100, 200, 3)


def test_a_picture_of_which_pillow_warns_is_read_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (10, 8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)  # it warns from here on, and refuses twice as many
    with warnings.catch_warnings(action="error"):
        assert fault_of(tmp_path / "a.png") is None
        assert read_picture(tmp_path / "a.png", (0, 0, 0)).size == (10, 8)


def test_a_damaged_png_is_refused_whatever_was_asked_of_it_first(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    whole, dice = (tmp_path / "whole.png").read_bytes(), random.Random(0)
    for _ in range(40):
        damaged = bytearray(whole)
        damaged[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
        (tmp_path / "a.png").write_bytes(damaged)
        with pytest.raises(InputError, match="a.png: (cannot be decoded|is)"):
            read_picture(tmp_path / "a.png", WHITE)


def test_a_jpeg_of_more_pixels_than_pillow_lets_pass_is_decoded_smaller_and_one_of_far_more_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn((400, 200)).save(tmp_path / "a.jpg", quality=95)
    drawn((400, 200)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    picture = read_picture(tmp_path / "a.jpg", WHITE, lambda _: (100, 50))
    assert picture.size == (400, 200)
    assert picture.image.size == (100, 50)
    assert fault_of(tmp_path / "a.jpg") is None
    with pytest.raises(InputError, match="a.jpg: has more than 0 megapixels"):  # all of its pixels are wanted
        read_picture(tmp_path / "a.jpg", WHITE)
    with pytest.raises(InputError, match="a.png: has more than 0 megapixels"):
        read_picture(tmp_path / "a.png", WHITE, lambda _: (100, 50))
    monkeypatch.setattr(decode, "LARGEST_JPEG", 70_000)
    for refused in (fault_of(tmp_path / "a.jpg"), fault_of(tmp_path / "a.png")):
        assert "megapixels" in str(refused)


def test_a_truncated_jpeg_is_refused(tmp_path: Path) -> None:
    drawn((300, 200)).save(tmp_path / "a.jpg", quality=95)
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(InputError, match="a.jpg: cannot be decoded"):
        read_picture(tmp_path / "a.jpg", WHITE)
