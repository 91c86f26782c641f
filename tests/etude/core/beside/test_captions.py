import json
from pathlib import Path

import pytest
from PIL import Image

from etude.core.beside.captions import ORIGINS, Captions
from tests.etude.core.beside.test_generated import END, draw


def captions(folder: Path, files: dict[str, str], *pictures: str) -> Captions:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return Captions(folder, [*files, *pictures], pictures)


def found(captions: Captions, *sources: str) -> tuple[str, str, str] | None:
    existing = captions.find(sources)
    return existing and tuple(existing)


def test_the_first_of_equal_pictures_that_has_a_text_gives_it(tmp_path: Path) -> None:
    here = captions(tmp_path, {"b.txt": "second\n", "sub/c.txt": "third\n"}, "a.png", "b.png", "sub/c.png")
    assert found(here, "a.png", "b.png", "sub/c.png") == ("second", "file", "b.txt")
    assert found(here, "sub/c.png", "b.png") == ("third", "file", "sub/c.txt")
    assert found(here, "a.png") is None


def test_an_empty_text_is_an_empty_caption_and_not_a_missing_one(tmp_path: Path) -> None:
    assert found(captions(tmp_path, {"a.txt": ""}, "a.png"), "a.png") == ("", "file", "a.txt")


def test_lines_and_runs_of_spaces_are_one_space(tmp_path: Path) -> None:
    assert found(captions(tmp_path, {"a.txt": "  a fox,\r\n\r\n  in   snow\n"}, "a.png"), "a.png") == (
        "a fox, in snow", "file", "a.txt"
    )  # fmt: skip


def test_a_text_of_several_lines_is_told_because_other_programs_take_one_of_them(tmp_path: Path) -> None:
    here = captions(tmp_path, {"a.txt": "a fox\n\nin snow\n", "b.txt": "\na fox\n\n"}, "a.png", "b.png")
    assert found(here, "a.png", "b.png") == ("a fox in snow", "file", "a.txt")
    assert found(here, "b.png") == ("a fox", "file", "b.txt")
    assert here.notes == {"a.txt": "its 2 lines are one caption; OneTrainer takes one of them, kohya the first"}


def test_a_text_is_beside_its_picture_in_any_form_of_unicode(tmp_path: Path) -> None:
    here = captions(tmp_path, {"caf\N{LATIN SMALL LETTER E WITH ACUTE}.txt": "coffee"})
    existing = here.find(["cafe\N{COMBINING ACUTE ACCENT}.jpg"])
    assert existing is not None
    assert existing.text == "coffee"


def test_of_several_texts_beside_a_picture_one_suffix_comes_before_another(tmp_path: Path) -> None:
    names = ["a.txt", "a.Txt", "a.caption", "a.tags", "a.png.txt"]
    here = captions(tmp_path, {name: name for name in names}, "a.png")
    for place, name in enumerate(names):
        left = Captions(tmp_path, names[place:], ["a.png"])
        assert found(left, "a.png") == (name, "file", name)
    assert found(here, "a.jpg") == ("a.txt", "file", "a.txt")


def test_places_count_in_their_order_and_each_is_used_where_those_before_it_are_missing(tmp_path: Path) -> None:
    folder = "10_sks dog"
    files = {
        f"{folder}/a.txt": "beside",
        f"{folder}/a.json": json.dumps({"caption": "in JSON"}),
        "metadata.jsonl": json.dumps({"file_name": f"{folder}/a.png", "text": "in a list"}),
    }
    picture = f"{folder}/a.png"
    captions(tmp_path, files)
    draw(tmp_path / picture, "drawn" + END)
    seen = []
    for place in range(len(files) + 1):
        seen.append(found(Captions(tmp_path, [*list(files)[place:], picture], [picture]), picture))
    Image.new("RGB", (8, 8)).save(tmp_path / picture)
    seen.append(found(Captions(tmp_path, [picture], [picture]), picture))
    assert seen == [
        ("beside", "file", f"{folder}/a.txt"),
        ("in JSON", "sidecar", f"{folder}/a.json"),
        ("in a list", "listing", "metadata.jsonl"),
        ("drawn", "picture", picture),
        ("sks dog", "folder", folder),
    ]
    assert [entry[1] for entry in seen if entry] == list(ORIGINS)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"caption": "a fox"}, "a fox"),
        ({"caption": "a fox", "tags": ["snow", "red"]}, "a fox, snow, red"),
        ({"tags": "snow, red"}, "snow, red"),
        ({"prompt": "a\nfox"}, "a fox"),
        ({"caption": ["a fox", "another wording"]}, "a fox"),
        ({"title": "IMG_0042.JPG", "description": ""}, None),  # Google Photos
        ({"caption": 3}, None),
    ],
)
@pytest.mark.parametrize("name", ["a.json", "a.png.json"])
def test_a_json_file_beside_a_picture_gives_its_caption_and_its_tags(
    tmp_path: Path, fields: dict[str, object], text: str | None, name: str
) -> None:
    here = captions(tmp_path, {name: json.dumps(fields)}, "a.png")
    assert found(here, "a.png") == (None if text is None else (text, "sidecar", name))


def test_what_is_wrong_with_a_file_is_kept_and_stops_nothing(tmp_path: Path) -> None:
    rows = json.dumps({"file_name": "a.png", "text": "a fox"}) + "\n{broken\n"
    here = captions(
        tmp_path, {"a.json": "{", "metadata.jsonl": rows, "metadata.csv": 'file_name,text\na.png,"x'}, "a.png"
    )
    (tmp_path / "a.txt").write_bytes(b"a\0b")
    here = Captions(tmp_path, [*here.files, "a.txt"], ["a.png"])
    assert found(here, "a.png") is None
    assert {file: fault.partition(" (")[0] for file, fault in here.faults.items()} == {
        "a.txt": "is no plain text",
        "a.json": "is not JSON",
        "metadata.jsonl": "line 2 is no JSON object that names a picture",
        "metadata.csv": "is no table",
    }


def test_a_text_of_windows_is_used_with_a_note(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("ein Füchschen im Schnee".encode("cp1252"))
    here = Captions(tmp_path, ["a.txt", "a.png"], ["a.png"])
    assert found(here, "a.png") == ("ein Füchschen im Schnee", "file", "a.txt")
    assert list(here.notes) == ["a.txt"]
