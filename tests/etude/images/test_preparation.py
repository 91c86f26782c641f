import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image, ImageDraw

from etude.core.errors import InputError
from etude.core.files import sha256_tree
from etude.core.orientation import TAG
from etude.images.crop import crop_box
from etude.images.cuts import PLAIN as ONE_COLOUR
from etude.images.cuts import Sheet, is_enlarged, pixels_enough, target_size
from etude.images.decode import FIRST, read_picture
from etude.images.folder import list_pictures
from etude.images.preparation import Preparation
from etude.images.settings import ONLY_ITSELF, Prepare

PLAIN = {
    "resolution": 64,
    "further_resolutions": [],
    "buckets": 0,
    "crop": "center",
    "split": 0.0,
    "split_overlap": 0.2,
    "flip": False,
    "copies": ONLY_ITSELF,
    "enlarge": False,
    "background": "#ffffff",
    "alpha_mask": False,
    "near_duplicates": 0.05,
    "unreadable": "skip",
}


COLOURS = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2}


def prepared(folder: Path, out: Path, **changes: Any) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    settings = Prepare(**{**PLAIN, **changes})
    preparing = Preparation(out, settings)
    for name, mask in list_pictures(folder).items():
        preparing.add(name, preparing.cutter((folder / name, folder / mask if mask else None)), mask)
    preparing.add_copies()
    listing = preparing.listing()
    assert {f"{identifier}.png" for identifier in listing["images"]} == {
        path.name for path in out.iterdir() if path.is_file()
    }
    for identifier, facts in listing["images"].items():
        with Image.open(out / f"{identifier}.png") as image:
            assert image.mode == "RGB"
            assert list(image.size) == facts["size"]
    return listing


def draw(path: Path, seed: int = 0, size: tuple[int, int] = (100, 80), **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 255, (5, 5, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    image.save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def test_files_of_one_stem_never_collide_and_keep_their_ids_when_renamed(folder: Path, tmp_path: Path) -> None:
    draw(folder / "a.png", 1)
    draw(folder / "a.jpg", 2)
    draw(folder / "sub" / "a.png", 3)
    before = prepared(folder, tmp_path / "out")["images"]
    assert sorted(facts["sources"][0] for facts in before.values()) == ["a.jpg", "a.png", "sub/a.png"]
    (folder / "a.png").rename(folder / "z.png")
    after = prepared(folder, tmp_path / "out2")["images"]
    assert after.keys() == before.keys()
    assert sha256_tree(tmp_path / "out") == sha256_tree(tmp_path / "out2")


def test_equal_pixels_are_kept_once_under_the_first_name_and_listed(folder: Path, tmp_path: Path) -> None:
    draw(folder / "b.png", 1)
    draw(folder / "a.bmp", 1)
    draw(folder / "c.png", 1, compress_level=0)
    draw(folder / "d.png", 2)
    listing = prepared(folder, tmp_path / "out", flip=True)
    assert listing["duplicates"] == {"b.png": "a.bmp", "c.png": "a.bmp"}
    assert len(listing["images"]) == 4
    assert sorted(map(tuple, (facts["sources"] for facts in listing["images"].values()))) == [
        ("a.bmp", "b.png", "c.png"),
        ("a.bmp", "b.png", "c.png"),
        ("d.png",),
        ("d.png",),
    ]


def test_one_changed_pixel_gives_one_new_id_and_leaves_the_others(folder: Path, tmp_path: Path) -> None:
    for seed in range(4):
        draw(folder / f"{seed}.png", seed)
    before = set(prepared(folder, tmp_path / "out")["images"])
    with Image.open(folder / "2.png") as image:
        changed = image.copy()
    changed.putpixel((40, 40), (1, 2, 3))
    changed.save(folder / "2.png")
    after = set(prepared(folder, tmp_path / "out2")["images"])
    assert len(before - after) == len(after - before) == 1


def test_a_rotated_photograph_is_cropped_upright(folder: Path, tmp_path: Path) -> None:
    upright = Image.new("RGB", (1200, 2000), (250, 0, 0))
    ImageDraw.Draw(upright).rectangle((0, 400, 600, 1000), fill=(0, 0, 250))  # top left of the middle square
    exif = Image.Exif()
    exif[TAG] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "a.jpg", exif=exif, quality=95)
    (facts,) = prepared(folder, tmp_path / "out")["images"].values()
    assert facts["source_size"] == [1200, 2000]
    assert facts["crop"] == [0, 400, 1200, 1600]
    (path,) = (tmp_path / "out").glob("*.png")
    with Image.open(path) as image:
        found = np.asarray(image).astype(int)
    assert np.abs(found[2:30, :30] - (0, 0, 250)).max() < 12
    assert np.abs(found[34:, :] - (250, 0, 0)).max() < 12


def test_small_pictures_are_listed_and_enlarged_only_on_request(folder: Path, tmp_path: Path) -> None:
    draw(folder / "fits.png", 1, (64, 64))
    draw(folder / "tiny.png", 2, (20, 300))
    draw(folder / "tiny_again.png", 2, (20, 300))
    listing = prepared(folder, tmp_path / "out")
    assert list(listing["skipped"]) == ["tiny.png", "tiny_again.png"]
    assert "20×300 pixels are too few for 64×64" in listing["skipped"]["tiny.png"]
    enlarged = prepared(folder, tmp_path / "out2", enlarge=True)
    assert {facts["sources"][0]: facts["enlarged"] for facts in enlarged["images"].values()} == {
        "fits.png": False,
        "tiny.png": True,
    }
    assert len(prepared(folder, tmp_path / "out3", crop="pad")["images"]) == 2  # its long side fits


def test_unreadable_files_are_left_out_with_their_reasons_or_stop_the_work(folder: Path, tmp_path: Path) -> None:
    draw(folder / "good.png")
    whole = draw(folder / "cut.jpg", 2, quality=95).read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").touch()
    listing = prepared(folder, tmp_path / "out")
    assert len(listing["images"]) == 1
    assert listing["skipped"].keys() == {"cut.jpg", "empty.png"}
    assert "cannot be decoded" in listing["skipped"]["cut.jpg"]
    assert listing["skipped"]["empty.png"] == "is empty"
    with pytest.raises(InputError, match="cut.jpg"):
        prepared(folder, tmp_path / "out2", unreadable="stop")


def test_what_is_to_be_known_of_a_picture_that_is_used_is_noted_and_only_that(folder: Path, tmp_path: Path) -> None:
    draw(folder / "a.png")
    assert "notes" not in prepared(folder, tmp_path / "out")
    Image.new("RGB", (64, 64), (5, 6, 7)).save(folder / "plain.png")
    frames = [Image.open(draw(folder / f"{seed}.png", seed)) for seed in (3, 4)]
    for name in ("b.gif", "same.png"):  # the second is a duplicate of 3.png
        frames[0].save(folder / name, save_all=True, append_images=frames[1:])
    listing = prepared(folder, tmp_path / "out2", flip=True)
    assert listing["notes"] == {"plain.png": [ONE_COLOUR], "b.gif": [FIRST], "same.png": [FIRST]}
    assert listing["duplicates"] == {"same.png": "3.png"}


def test_flipped_copies_are_mirror_images_and_none_is_made_that_is_there_already(folder: Path, tmp_path: Path) -> None:
    draw(folder / "a.png", 1, (64, 64))
    with Image.open(folder / "a.png") as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "mirrored.png")
    Image.new("RGB", (64, 64), (5, 6, 7)).save(folder / "plain.png")
    draw(folder / "b.png", 2, (90, 64))
    images = prepared(folder, tmp_path / "out", flip=True)["images"]
    flips = [identifier for identifier, facts in images.items() if facts["flipped"]]
    assert [images[identifier]["sources"] for identifier in flips] == [["b.png"]]
    (flip,) = flips
    with Image.open(tmp_path / "out" / f"{flip}.png") as one, Image.open(tmp_path / f"out/{flip[:-5]}.png") as other:
        assert (np.asarray(one)[:, ::-1] == np.asarray(other)).all()


def test_a_panorama_is_split_into_pictures_of_its_parts(folder: Path, tmp_path: Path) -> None:
    draw(folder / "wide.png", 1, (400, 100))
    images = prepared(folder, tmp_path / "out", split=0.5)["images"]
    assert len(images) == 5
    stem = min(images)
    assert sorted(images) == [stem, *(f"{stem}-{number}" for number in range(2, 6))]
    assert images[stem]["crop"] == [0, 0, 100, 100]
    assert images[f"{stem}-5"]["crop"] == [300, 0, 400, 100]
    assert len(prepared(folder, tmp_path / "out2", split=0.2)["images"]) == 1


def test_buckets_keep_the_shape_of_a_picture(folder: Path, tmp_path: Path) -> None:
    draw(folder / "wide.jpg", 1, (3000, 2000))
    draw(folder / "square.png", 2, (300, 300))
    images = prepared(folder, tmp_path / "out", resolution=128, buckets=8)["images"].values()
    assert {facts["sources"][0]: facts["size"] for facts in images} == {
        "wide.jpg": [152, 104],
        "square.png": [128, 128],
    }


def test_near_duplicates_are_listed_and_kept(folder: Path, tmp_path: Path) -> None:
    draw(folder / "a.png", 1)
    draw(folder / "a.jpg", 1, quality=80)
    draw(folder / "b.png", 2)
    listing = prepared(folder, tmp_path / "out", flip=True)
    assert len(listing["images"]) == 6
    ((one, other),) = listing["near_duplicates"]
    assert {listing["images"][one]["sources"][0], listing["images"][other]["sources"][0]} == {"a.png", "a.jpg"}


def test_equal_folders_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    for seed, suffix in enumerate(["png", "jpg", "webp", "gif"]):
        draw(folder / f"{seed}.{suffix}", seed, (300 + seed, 200))
    one = prepared(folder, tmp_path / "out", crop="focus", flip=True)
    other = prepared(folder, tmp_path / "out2", crop="focus", flip=True)
    assert one == other
    assert sha256_tree(tmp_path / "out") == sha256_tree(tmp_path / "out2")


@pytest.mark.parametrize(
    ("size", "crop", "pixels", "enlarged"),
    [
        ((1600, 400), "center", (512, 128), False),  # twice the height that is used
        ((1600, 400), "pad", (128, 32), False),  # twice the width: the height of a padded one is less
        ((400, 1601), "focus", (128, 513), False),  # rounded up
        ((400, 60), "center", (854, 128), True),  # too few across or down
        ((400, 60), "pad", (128, 20), False),
        ((60, 50), "pad", (128, 107), True),
        ((64, 64), "center", (128, 128), False),
    ],
)
def test_twice_the_pixels_that_are_used_are_decoded_and_fewer_than_used_are_an_enlargement(
    size: tuple[int, int], crop: Literal["center", "focus", "pad"], pixels: tuple[int, int], enlarged: bool
) -> None:
    settings = Prepare(**{**PLAIN, "crop": crop})
    assert pixels_enough(size, settings) == pixels
    assert is_enlarged(size, (64, 64), settings) == enlarged


def test_a_wide_jpeg_is_decoded_at_no_less_than_twice_the_pixels_that_are_used(folder: Path) -> None:
    path = draw(folder / "wide.jpg", 1, (1600, 400))
    for crop, size in (("center", (800, 200)), ("pad", (200, 50))):
        enough = partial(pixels_enough, settings=Prepare(**{**PLAIN, "crop": crop}))
        picture = read_picture(path, (0, 0, 0), enough)
        assert (picture.image.size, picture.size) == (size, (1600, 400))


@pytest.mark.parametrize(("side", "enough"), [(4000, 480), (300, 300), (100, 128)])
def test_for_faces_a_picture_is_decoded_as_large_as_they_are_searched_in(side: int, enough: int) -> None:
    assert pixels_enough((side, side), Prepare(**{**PLAIN, "crop": "faces"})) == (enough, enough)


@pytest.mark.parametrize(
    "wrong",
    [
        {"further_resolutions": [32, 32]},
        {"further_resolutions": [64]},
        {"copies": {"count": 1, "crop": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0}},
        {"copies": {"count": 1, **dict.fromkeys(COLOURS, 0.0), "crop": 0.1}, "crop": "pad"},
        {"crop": "none"},
        {"resolution": 100},
        {"buckets": 40},
        {"background": "white"},
        {"flip": 1},
        {"rnk": 8},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Prepare(**{**PLAIN, **wrong})


def test_settings_at_the_limit_work() -> None:
    for step in (8, 32):  # half of the resolution
        assert Prepare(**{**PLAIN, "buckets": step}).buckets == step


@pytest.mark.parametrize("crop", ["center", "focus", "pad"])
@pytest.mark.parametrize("split", [0.0, 0.9])
def test_a_mask_is_cut_padded_and_mirrored_as_its_picture_is(
    crop: str, split: float, folder: Path, tmp_path: Path
) -> None:
    grey = Image.new("L", (160, 80), 0)
    ImageDraw.Draw(grey).rectangle((100, 10, 150, 60), fill=255)
    grey.convert("RGB").save(folder / "a.png")  # a picture that is its own mask: both must be cut alike
    grey.resize((80, 40)).save(folder / "a_att.png")  # a mask may be smaller
    draw(folder / "plain.png", 3, (80, 80))
    listing = prepared(folder, tmp_path / "out", crop=crop, split=split, flip=True, enlarge=True, background="#7f7f7f")
    masked = [identifier for identifier, facts in listing["images"].items() if facts.get("attention") == "a_att.png"]
    assert len(masked) == len(listing["images"]) - 2
    assert len(masked) >= (4 if split else 2)
    assert sorted(path.stem for path in (tmp_path / "out/attention").iterdir()) == sorted(masked)
    for identifier in masked:
        with (
            Image.open(tmp_path / f"out/{identifier}.png") as picture,
            Image.open(tmp_path / f"out/attention/{identifier}.png") as mask,
        ):
            assert mask.mode == "L"
            difference = np.abs(np.asarray(mask, dtype=float) - np.asarray(picture.convert("L"), dtype=float))
            assert difference.mean() < 6


def test_copies_show_a_part_of_the_cut_in_other_colours_each_another_and_the_same_in_any_set(
    folder: Path, tmp_path: Path
) -> None:
    draw(folder / "a.png", 1, (160, 120))
    plain = prepared(folder, tmp_path / "plain")["images"]
    (own,) = plain
    images = prepared(folder, tmp_path / "out", copies={"count": 3, "crop": 0.2, **COLOURS})["images"]
    assert images.pop(own) == plain[own]
    assert sorted(images) == [f"{own}-copy{number}" for number in (1, 2, 3)]
    left, top, right, bottom = plain[own]["crop"]
    for entry in images.values():
        assert (entry["of"], entry["flipped"], entry["size"], entry["sources"]) == (own, False, [64, 64], ["a.png"])
        a, b, c, d = entry["crop"]
        assert left <= a < c <= right
        assert top <= b < d <= bottom
        assert 0.75 * (right - left) < c - a
    pixels = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert len(set(pixels.values())) == 4
    assert pixels[f"{own}.png"] == (tmp_path / f"plain/{own}.png").read_bytes()
    draw(folder / "b.png", 2)
    shutil.rmtree(".cache", ignore_errors=True)
    prepared(folder, tmp_path / "more", copies={"count": 4, "crop": 0.2, **COLOURS})
    for name, data in pixels.items():
        assert (tmp_path / "more" / name).read_bytes() == data


@pytest.mark.parametrize("crop", ["center", "pad"])
def test_the_mask_of_a_copy_is_cut_as_it_is_and_keeps_its_grey(crop: str, folder: Path, tmp_path: Path) -> None:
    grey = Image.new("L", (160, 80), 0)
    ImageDraw.Draw(grey).rectangle((60, 10, 110, 60), fill=255)
    grey.convert("RGB").save(folder / "a.png")
    grey.save(folder / "a_att.png")
    copies = {"count": 2, "crop": 0.3, "brightness": 0.02, "contrast": 0.0, "saturation": 0.0}
    settings = {"crop": crop, "enlarge": True, "background": "#7f7f7f", "flip": True}
    images = prepared(folder, tmp_path / "out", copies=copies, **settings)["images"]
    assert len(images) == 6
    for identifier, entry in images.items():
        assert entry["attention"] == "a_att.png"
        with (
            Image.open(tmp_path / f"out/{identifier}.png") as picture,
            Image.open(tmp_path / f"out/attention/{identifier}.png") as mask,
        ):
            difference = np.abs(np.asarray(mask, dtype=float) - np.asarray(picture.convert("L"), dtype=float))
            assert difference.mean() < 6


@pytest.mark.parametrize(
    ("buckets", "sizes"), [(0, [(64, 64), (96, 96), (32, 32)]), (16, [(80, 48), (112, 80), (32, 32)])]
)
def test_further_resolutions_are_copies_of_other_sizes_and_nothing_is_enlarged_for_them(
    buckets: int, sizes: list[tuple[int, int]], folder: Path, tmp_path: Path
) -> None:
    draw(folder / "a.png", 1, (160, 100))
    settings = {"further_resolutions": [96, 32, 2048], "buckets": buckets, "enlarge": True}
    images = prepared(folder, tmp_path / "out", **settings)["images"]
    (own,) = [identifier for identifier, entry in images.items() if "of" not in entry]
    found = {identifier: tuple(entry["size"]) for identifier, entry in images.items()}
    assert found == dict(zip((own, f"{own}-96px", f"{own}-32px"), sizes, strict=True))
    for identifier, size in found.items():
        left, top, right, bottom = images[identifier]["crop"]
        assert (right - left) / (bottom - top) == pytest.approx(size[0] / size[1], abs=0.03)  # nothing is stretched


def test_why_a_picture_is_not_at_a_further_resolution_is_listed(folder: Path, tmp_path: Path) -> None:
    draw(folder / "a.png", 1, (160, 100))
    draw(folder / "b.png", 2, (320, 64))
    Image.new("RGB", (200, 200), "red").save(folder / "c.png")
    draw(folder / "d.png", 3, (200, 200))
    Image.new("RGB", (300, 200), "red").save(folder / "e.png")
    listing = prepared(folder, tmp_path / "out", further_resolutions=[96, 32, 2048], split=0.5)
    assert listing["not_at"] == {
        "96": {"too small": ["b.png"], "the same as another": ["e.png"]},
        "32": {"the same as another": ["e.png"]},
        "2048": {"too small": ["a.png", "b.png", "c.png", "d.png", "e.png"]},
    }
    (folder / "e.png").unlink()
    assert "not_at" not in prepared(folder, tmp_path / "other", further_resolutions=[32])


@pytest.mark.parametrize("size", [(712, 900), (4032, 3024), (1216, 832), (1920, 1080), (5184, 3456), (999, 1000)])
@pytest.mark.parametrize("buckets", [0, 64])
def test_boxes_of_copies_lie_in_the_picture_for_any_size(size: tuple[int, int], buckets: int) -> None:
    settings = Prepare(**{**PLAIN, "resolution": 512, "buckets": buckets, "further_resolutions": [704, 768, 832, 1024]})
    picture = SimpleNamespace(image=SimpleNamespace(size=size), size=size)
    for focus in (None, (0.0, 0.0), (size[0] * 0.3, size[1] * 0.9)):
        main = crop_box(size, target_size(size, settings), focus)
        for alone, place in ((True, main), (False, main), (False, (3.3, 7.7, size[0] / 3, size[1] / 2))):
            sheet = Sheet(picture, None, {}, place, padded=False, alone=alone)  # type: ignore[arg-type]
            for side in settings.further_resolutions:
                target = target_size(size, settings.at(side))
                left, top, right, bottom = sheet.reshaped(target)
                assert 0 <= left < right <= size[0]
                assert 0 <= top < bottom <= size[1]
                assert (right - left) / (bottom - top) == pytest.approx(target[0] / target[1])
                if not alone:
                    assert place[0] <= left
                    assert right <= place[2]


def test_a_picture_of_just_a_buckets_size_is_used_whole_at_that_resolution(folder: Path, tmp_path: Path) -> None:
    draw(folder / "a.png", 1, (152, 104))  # a bucket of 128
    settings = {"buckets": 8, "further_resolutions": [128]}
    images = prepared(folder, tmp_path / "out", **settings)["images"]
    (copy,) = [entry for entry in images.values() if "of" in entry]
    assert (copy["size"], copy["crop"], copy["enlarged"]) == ([152, 104], [0, 0, 152, 104], False)


def test_copies_are_not_enlarged_where_pictures_must_not_be(folder: Path, tmp_path: Path) -> None:
    draw(folder / "a.png", 1, (64, 64))
    draw(folder / "b.png", 2, (70, 70))
    copies = {"count": 3, "crop": 0.5, **COLOURS}
    images = prepared(folder, tmp_path / "out", copies=copies, enlarge=False)["images"]
    assert len(images) == 8
    for entry in images.values():
        left, top, right, bottom = entry["crop"]
        assert min(right - left, bottom - top) >= 64
        assert not entry["enlarged"]
    allowed = prepared(folder, tmp_path / "other", copies=copies, enlarge=True)["images"]
    assert any(entry["enlarged"] for entry in allowed.values())


@pytest.mark.parametrize("size", [(1, 1000), (1000, 1), (3, 1000)])
def test_a_picture_of_a_pixels_width_has_a_box_too(size: tuple[int, int], folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", size, "red").save(folder / "a.png")
    Image.new("L", size, 200).save(folder / "a_att.png")
    for crop in ("center", "pad"):
        out = tmp_path / f"out-{crop}"
        images = prepared(folder, out, enlarge=True, crop=crop, further_resolutions=[32])["images"]
        for entry in images.values():
            left, top, right, bottom = entry["crop"]
            assert 0 <= left < right <= size[0]
            assert 0 <= top < bottom <= size[1]


def test_parts_of_a_split_picture_are_not_enlarged_where_pictures_must_not_be(folder: Path, tmp_path: Path) -> None:
    draw(folder / "a.png", 1, (640, 60))
    draw(folder / "b.png", 2, (640, 64))
    for crop in ("center", "pad"):
        listing = prepared(folder, tmp_path / crop, crop=crop, split=0.5, enlarge=False)
        assert list(listing["skipped"]) == ["a.png"]
        assert not any(entry["enlarged"] for entry in listing["images"].values())


def test_a_large_jpeg_is_decoded_for_the_largest_resolution(folder: Path, tmp_path: Path) -> None:
    draw(folder / "a.jpg", 1, (1600, 1600))
    images = prepared(folder, tmp_path / "out", further_resolutions=[1024])["images"]
    assert sorted(entry["size"] for entry in images.values()) == [[64, 64], [1024, 1024]]


def see_through(path: Path, mode: str, orientation: int = 1) -> None:
    """A white square that shows, in a picture that does not: over black, it is its own mask."""
    alpha = Image.new("L", (160, 80), 0)
    ImageDraw.Draw(alpha).rectangle((60, 10, 110, 60), fill=255)
    ImageDraw.Draw(alpha).rectangle((20, 30, 50, 50), fill=128)
    exif = Image.Exif()
    exif[TAG] = orientation
    if mode == "P":
        image = alpha.convert("P")
        image.putpalette([255] * 768)
        image.save(path, transparency=bytes(range(256)))
        return
    white = Image.new(mode[:-1], alpha.size, "white")
    white.putalpha(alpha)
    white.save(path, exif=exif)


@pytest.mark.parametrize(("mode", "orientation"), [("RGBA", 1), ("LA", 1), ("P", 1), ("RGBA", 6)])
def test_transparency_becomes_a_mask_where_that_is_wished_cut_and_mirrored_as_its_picture_is(
    mode: str, orientation: int, folder: Path, tmp_path: Path
) -> None:
    see_through(folder / "a.png", mode, orientation)
    draw(folder / "opaque.png", 3, (80, 80))
    with Image.open(folder / "opaque.png") as image:
        image.convert("RGBA").save(folder / "opaque.png")
    wished = {"flip": True, "split": 0.9, "background": "#000000"}
    listing = prepared(folder, tmp_path / "out", alpha_mask=True, **wished)
    masked = {identifier for identifier, facts in listing["images"].items() if facts.get("attention") == "a.png"}
    assert len(masked) == 6
    assert {path.stem for path in (tmp_path / "out/attention").iterdir()} == masked
    for identifier in masked:
        with (
            Image.open(tmp_path / f"out/{identifier}.png") as picture,
            Image.open(tmp_path / f"out/attention/{identifier}.png") as mask,
        ):
            assert np.asarray(mask).max() == 255
            assert np.abs(np.asarray(mask, dtype=float) - np.asarray(picture.convert("L"), dtype=float)).max() <= 2
    prepared(folder, tmp_path / "plain", **wished)
    assert not (tmp_path / "plain/attention").exists()
    shutil.rmtree(tmp_path / "out/attention")
    assert sha256_tree(tmp_path / "out") == sha256_tree(tmp_path / "plain")  # the pictures are the same ones


def test_a_mask_beside_a_picture_comes_before_its_transparency(folder: Path, tmp_path: Path) -> None:
    see_through(folder / "a.png", "RGBA")
    Image.new("L", (160, 80), 77).save(folder / "a_att.png")
    ((identifier, facts),) = prepared(folder, tmp_path / "out", alpha_mask=True)["images"].items()
    assert facts["attention"] == "a_att.png"
    with Image.open(tmp_path / f"out/attention/{identifier}.png") as mask:
        assert mask.getextrema() == (77, 77)


def test_of_files_with_the_same_pixels_the_one_with_a_mask_is_kept_with_it(folder: Path, tmp_path: Path) -> None:
    for name in ("a.png", "sub/b.png", "sub/c.png"):
        draw(folder / name)
    draw(folder / "sub/b_att.png", 1)
    listing = prepared(folder, tmp_path / "out", flip=True)
    for identifier, entry in listing["images"].items():
        assert (entry["sources"], entry["attention"]) == (["sub/b.png", "a.png", "sub/c.png"], "b_att.png")
        assert (tmp_path / f"out/attention/{identifier}.png").exists()
    assert listing["duplicates"] == {"a.png": "sub/b.png", "sub/c.png": "sub/b.png"}


def test_a_damaged_mask_of_a_picture_seen_before_is_an_error(folder: Path, tmp_path: Path) -> None:
    draw(folder / "a.png")
    draw(folder / "b.png")
    (folder / "b_att.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="b_att.png"):
        prepared(folder, tmp_path / "out")


def test_a_damaged_mask_is_an_error_and_not_left_out(folder: Path, tmp_path: Path) -> None:
    draw(folder / "a.png")
    (folder / "a_att.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="a_att.png"):
        prepared(folder, tmp_path / "out")
