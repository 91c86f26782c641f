from pathlib import Path

import pytest

from etude.errors import InputError
from etude.images.folder import list_masks, list_pictures


def test_only_what_could_be_a_picture_is_listed_with_sub_folders_in_the_order_of_names(tmp_path: Path) -> None:
    wanted = ["B.JPG", "a.png", "holiday/2.webp", "holiday/deep/1.png", "no_suffix", "odd.dat"]
    beside = ["a.txt", "a.caption", "README.md", "LICENSE", ".DS_Store", "._a.png", "Thumbs.db", "a.npz", ".git/x.png"]
    for name in [*wanted, *beside, "__MACOSX/a.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert list_pictures(tmp_path) == wanted


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone: is not a folder"):
        list_pictures(tmp_path / "gone")


def test_a_mask_lies_beside_its_picture_and_is_none_itself(tmp_path: Path) -> None:
    for name in ("a.png", "a_att.jpg", "b_att.png", "deep/c.jpg", "deep/c_att.png", "d.png", "d_att.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert list_masks(tmp_path) == {"a.png": "a_att.jpg", "deep/c.jpg": "deep/c_att.png"}
    assert list_pictures(tmp_path) == ["a.png", "b_att.png", "d.png", "deep/c.jpg"]
