import os
import sys
from pathlib import Path

import pytest

from etude.core.errors import InputError
from etude.images.folder import list_folder, list_pictures, name_unused


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_only_what_could_be_a_picture_is_listed_with_sub_folders_in_the_order_of_names(tmp_path: Path) -> None:
    wanted = ["B.JPG", "a.png", "holiday/2.webp", "holiday/deep/1.png", "no_suffix", "odd.dat"]
    beside = ["a.txt", "a.caption", "README.md", "LICENSE", ".DS_Store", "._a.png", "Thumbs.db", "a.npz", ".git/x.png"]
    fill(tmp_path, *wanted, *beside, "__MACOSX/a.png")
    assert list(list_pictures(tmp_path)) == wanted


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone: does not exist"):
        list_pictures(tmp_path / "gone")
    (tmp_path / "a.png").touch()
    with pytest.raises(InputError, match="a.png: is a file, not a folder"):
        list_pictures(tmp_path / "a.png")


def test_a_folder_that_was_not_pulled_is_told_from_one_that_never_was(tmp_path: Path) -> None:
    fill(tmp_path, "otters.dvc")
    with pytest.raises(InputError, match="otters: is tracked by DVC, .* run `dvc pull"):
        list_pictures(tmp_path / "otters")


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take no such name")
def test_a_name_that_no_listing_could_hold_is_listed_with_its_bytes_escaped(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "caf\udce9.png", "s\udcfc/b.png")  # Latin-1 bytes, as old archives unpack
    fault = "has a name that is not UTF-8: rename it"
    assert list_folder(tmp_path) == (["a.png"], {"caf\\udce9.png": fault, "s\\udcfc/b.png": fault})


@pytest.mark.skipif(sys.platform == "win32", reason="there, links need a right and pipes are no files")
def test_links_to_files_are_followed_and_what_is_no_file_is_listed_with_the_reason(tmp_path: Path) -> None:
    fill(tmp_path, "in/a.png", "out/b.png", "in/deep/c.png")
    for link, target in {"b.png": "../out/b.png", "gone.png": "nothing", "itself.png": "itself.png"}.items():
        (tmp_path / "in" / link).symlink_to(target)
    for link, target in {"more": "../out", "loop": ".", "deep/up": "../.."}.items():
        (tmp_path / "in" / link).symlink_to(target)
    os.mkfifo(tmp_path / "in/pipe.png")
    fill(tmp_path, "in/.hidden/x.png")
    files, others = list_folder(tmp_path / "in")
    assert files == ["a.png", "b.png", "deep/c.png"]
    assert {name: fault.partition(":")[0] for name, fault in others.items()} == {
        "deep/up": "is a link to a folder, which is not followed",
        "gone.png": "is a link to nothing",
        "itself.png": "is a link to nothing",
        "loop": "is a link to a folder, which is not followed",
        "more": "is a link to a folder, which is not followed",
        "pipe.png": "is no file (a pipe, a socket or a device)",
    }


def test_a_mask_lies_beside_its_picture_and_is_none_itself(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "a_att.jpg", "b_att.png", "deep/c.jpg", "deep/c_att.png", "d.png", "d_att.txt")
    masks = {"a.png": "a_att.jpg", "b_att.png": None, "d.png": None, "deep/c.jpg": "deep/c_att.png"}
    assert list_pictures(tmp_path) == masks


def test_masks_and_conditions_of_onetrainer_are_no_pictures(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "a-masklabel.png", "a-condlabel.png", "b-masklabel.png", "c.png", "c-condlabel.png")
    assert list_pictures(tmp_path) == {"a.png": "a-masklabel.png", "b-masklabel.png": None, "c.png": None}
    fill(tmp_path, "a_att.png")
    assert list_pictures(tmp_path)["a.png"] == "a_att.png"


def test_a_picture_in_a_folder_of_masks_is_the_mask_of_the_one_with_its_name(tmp_path: Path) -> None:
    fill(tmp_path, "10_fox/a.png", "10_fox/b.jpg", "1_fox/c.png", "1_fox/masks/c.webp", "img/5_fox/d.png")
    fill(tmp_path, "conditioning/a.png", "conditioning/b.png", "Mask/5_fox/d.png", "10_fox/b_att.png")
    assert list_pictures(tmp_path) == {
        "10_fox/a.png": "conditioning/a.png",
        "10_fox/b.jpg": "10_fox/b_att.png",
        "1_fox/c.png": "1_fox/masks/c.webp",
        "img/5_fox/d.png": "Mask/5_fox/d.png",
    }


def test_a_folder_called_masks_that_has_no_pictures_names_holds_pictures(tmp_path: Path) -> None:
    fill(tmp_path, "masks/venice.png", "masks/masked.png", "other/mask.png", "1_ball/asked.png")
    assert set(list_pictures(tmp_path).values()) == {None}
    assert len(list_pictures(tmp_path)) == 4


def test_pictures_of_one_stem_share_its_mask(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "a.png", "a_att.png")
    assert list_pictures(tmp_path) == {"a.jpg": "a_att.png", "a.png": "a_att.png"}


def test_unused_files_are_named_by_suffix_with_counts_and_cards_are_not() -> None:
    files = ["a.png", "a.txt", "a.json", "b.json", "b.png", "b.png.txt", "metadata.jsonl", "README.md", "LICENSE"]
    assert name_unused(files, {"a.png", "b.png", "a.txt"}) == [
        "2 .json (a.json)", "1 .jsonl (metadata.jsonl)", "1 .png.txt (b.png.txt)"
    ]  # fmt: skip
    assert name_unused(files[:2], {"a.png", "a.txt"}) == []
