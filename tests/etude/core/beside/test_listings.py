import json
from pathlib import Path, PurePosixPath

import pytest

from etude.core.beside.captions import Captions
from etude.core.beside.listings import by_last_part, places_of

ROWS = [{"file_name": "a.png", "text": "a fox"}, {"file_name": "sub/a.png", "text": "a dog"}]


def captions_of(folder: Path, *pictures: str) -> dict[str, str]:
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    here = Captions(folder, [*files, *pictures], pictures)
    assert here.faults == {}
    return {name: existing.text for name in pictures if (existing := here.find([name]))}


def test_rows_of_hugging_face_name_pictures_from_the_folder_of_their_file(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train/metadata.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + "\n\n", encoding="utf-8")
    pictures = ("train/a.png", "train/sub/a.png", "a.png", "train/b.png")
    assert captions_of(tmp_path, *pictures) == {"train/a.png": "a fox", "train/sub/a.png": "a dog"}


def test_a_table_may_have_commas_and_line_breaks_in_its_captions(tmp_path: Path) -> None:
    table = 'file_name,license,text\na.png,CC0,"a fox, in\nthe snow"\nb.png,CC0,\n'
    (tmp_path / "metadata.csv").write_text(table, encoding="utf-8-sig")
    assert captions_of(tmp_path, "a.png", "b.png") == {"a.png": "a fox, in the snow"}


def test_kohyas_file_names_pictures_by_stems_or_by_paths_of_any_machine(tmp_path: Path) -> None:
    content = {
        "v1.2 fox": {"tags": "fox, snow"},
        "C:\\train\\10_dog\\b.jpg": {"caption": "a dog", "tags": "dog"},
        "/home/me/train/d": {"train_resolution": [512, 512]},
    }
    (tmp_path / "meta_cap.json").write_text(json.dumps(content), encoding="utf-8")
    pictures = ("v1.2 fox.png", "dogs/b.jpg", "d.png")
    assert captions_of(tmp_path, *pictures) == {"v1.2 fox.png": "fox, snow", "dogs/b.jpg": "a dog, dog"}


def test_kohyas_last_step_comes_before_its_first(tmp_path: Path) -> None:
    for name in ("meta_cap.json", "meta_clean.json", "meta_lat.json"):
        (tmp_path / name).write_text(json.dumps({"a": {"caption": name}}), encoding="utf-8")
    assert captions_of(tmp_path, "a.png") == {"a.png": "meta_lat.json"}


def test_what_is_no_listing_is_not_read_as_one(tmp_path: Path) -> None:
    for name, text in {
        "notes.json": "[1, 2]", "config.json": '{"steps": 10}', "log.jsonl": '{"loss": 1}\n',
        "loss.csv": "step,loss\n1,2\n", "empty.json": "",
        "empty.csv": "", "empty.jsonl": "", "deep.json": "[" * 100_000,
    }.items():  # fmt: skip
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert captions_of(tmp_path, "a.png") == {}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("a.png", ["a.png"]),  # beside the listing
        ("x/a.png", ["x/a.png"]),
        ("/data/x/a.png", ["x/a.png"]),
        ("/data/y/a.png", ["y/a.png"]),
        ("c", ["x/c.jpg", "x/c.png"]),  # one stem in one folder
        ("c.png", ["x/c.png"]),
        ("e", []),  # in two folders: which?
        ("../../etc/passwd", []),
        ("", []),
    ],
)
def test_a_name_means_the_picture_that_shares_most_of_its_path(name: str, meant: list[str]) -> None:
    pictures = ["a.png", "x/a.png", "y/a.png", "x/c.jpg", "x/c.png", "x/e.png", "y/e.png"]
    assert places_of(name, PurePosixPath(), by_last_part(pictures))[0] == meant


def test_of_two_names_for_a_picture_the_one_like_its_own_path_counts_and_the_other_is_no_picture_here(
    tmp_path: Path,
) -> None:
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, reversed(ROWS))), encoding="utf-8")
    assert captions_of(tmp_path, "a.png") == {"a.png": "a fox"}


def test_of_two_names_that_are_equally_like_a_picture_none_counts_and_that_is_noted(tmp_path: Path) -> None:
    rows = [{"file_name": "x/a.png", "text": "a fox"}, {"file_name": "y/a.png", "text": "a dog"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    here = Captions(tmp_path, ["metadata.jsonl", "a.png"], ["a.png"])
    assert here.find(["a.png"]) is None
    assert here.notes == {"metadata.jsonl": "1 of its names fit no picture here, or several pictures, such as y/a.png"}


def test_names_that_mean_no_picture_are_counted(tmp_path: Path) -> None:
    rows = [*ROWS, {"file_name": "gone.png", "text": "a cat"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    here = Captions(tmp_path, ["metadata.jsonl", "a.png", "sub/a.png"], ["a.png", "sub/a.png"])
    assert here.find(["a.png"]) == ("a fox", "listing", "metadata.jsonl")
    assert here.notes == {"metadata.jsonl": "1 of its names fit no picture here, or several pictures, such as gone.png"}
