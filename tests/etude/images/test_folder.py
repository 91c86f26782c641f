import sys
from pathlib import Path

import pytest

from etude.core.errors import InputError
from etude.images.folder import list_pictures


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
    with pytest.raises(InputError, match="gone: is not a folder"):
        list_pictures(tmp_path / "gone")


def test_a_folder_that_was_not_pulled_is_told_from_one_that_never_was(tmp_path: Path) -> None:
    fill(tmp_path, "otters.dvc")
    with pytest.raises(InputError, match="otters: is tracked, .* run `dvc pull"):
        list_pictures(tmp_path / "otters")


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take no such name")
def test_a_name_that_no_listing_could_hold_is_told(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "caf\udce9.png")  # Latin-1 bytes, as old archives unpack
    with pytest.raises(InputError, match=r"'caf\\udce9.png', a name that is not UTF-8"):
        list_pictures(tmp_path)


def test_a_mask_lies_beside_its_picture_and_is_none_itself(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "a_att.jpg", "b_att.png", "deep/c.jpg", "deep/c_att.png", "d.png", "d_att.txt")
    masks = {"a.png": "a_att.jpg", "b_att.png": None, "d.png": None, "deep/c.jpg": "deep/c_att.png"}
    assert list_pictures(tmp_path) == masks


def test_pictures_of_one_stem_share_its_mask(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "a.png", "a_att.png")
    assert list_pictures(tmp_path) == {"a.jpg": "a_att.png", "a.png": "a_att.png"}
