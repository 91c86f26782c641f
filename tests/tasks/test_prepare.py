import multiprocessing
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from etude.core import workers
from etude.core.errors import InputError, ParamsError
from etude.core.files import read_json, sha256_tree
from etude.images import cuts, faces
from etude.images.cuts import Cutter
from tasks.prepare import _tell, prepare
from tests.tasks.front import draw, make_project, set_param


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(make_project(tmp_path, Path("nowhere")))
    (tmp_path / "raw").mkdir()
    return Path("raw")


def test_a_folder_becomes_pictures_and_a_list_of_what_happened_to_each_file(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(raw / "a.png", 1)
    draw(raw / "same.png", 1)
    draw(raw / "sub" / "small.png", 2, (30, 30))
    (raw / "broken [red].jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (raw / "a.txt").write_text("a cat")
    prepare("pets")
    listing = read_json("data/pets/prepared/images.json")
    assert [facts["sources"] for facts in listing["images"].values()] == [["a.png", "same.png"]]
    assert listing["skipped"].keys() == {"broken [red].jpg", "sub/small.png"}
    assert listing["duplicates"] == {"same.png": "a.png"}
    told = capsys.readouterr()
    assert "pets: 1 pictures (0 of them copies) from 4 files" in told.out
    assert "left out: 2: broken [red].jpg (" in told.err
    assert "same.png = a.png" in told.err


def test_a_second_run_replaces_the_first_and_gives_the_same_bytes(raw: Path) -> None:
    draw(raw / "a.png", 1)
    draw(raw / "b.png", 2)
    prepare("pets")
    first = sha256_tree("data/pets/prepared")
    (raw / "b.png").unlink()
    prepare("pets")
    assert len(list(Path("data/pets/prepared").glob("*.png"))) == 1
    draw(raw / "b.png", 2)
    prepare("pets")
    assert sha256_tree("data/pets/prepared") == first
    assert [path.name for path in Path("data/pets").iterdir()] == ["prepared"]


def test_several_processes_give_the_same_bytes_and_say_the_same_as_one(
    raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(3 * workers.CHUNK):
        draw(raw / f"{seed:02}.png", seed % 20)  # some are the same as an earlier one
    (raw / "05.png").write_bytes(b"broken")
    set_param("flip: false", "flip: true")
    monkeypatch.setattr(workers, "cores", lambda: 1)
    prepare("pets")
    first, said = sha256_tree("data/pets/prepared"), capsys.readouterr()
    shutil.rmtree(".cache")
    monkeypatch.setattr(workers, "cores", lambda: 2)
    monkeypatch.setattr(workers, "TRIAL", -1.0)
    monkeypatch.setattr(workers, "PAYS", -1.0)
    monkeypatch.setattr(Cutter, "_made", lambda *_: pytest.fail("the work is done in other processes"))
    prepare("pets")
    assert sha256_tree("data/pets/prepared") == first
    assert capsys.readouterr() == said


def test_a_damaged_mask_ends_the_work_of_other_processes_too(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(workers.CHUNK + 1):
        draw(raw / f"{seed:02}.png", seed)
    (raw / "00_att.png").write_bytes(b"broken")
    for setting in ("TRIAL", "PAYS"):
        monkeypatch.setattr(workers, setting, -1.0)
    monkeypatch.setattr(workers, "cores", lambda: 2)
    with pytest.raises(InputError, match=r"00_att\.png"):
        prepare("pets")
    assert multiprocessing.active_children() == []


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are decoded and cut, not taken from the store."""
    names: list[str] = []
    made = Cutter._made

    def noted(cutter: Cutter, path: Path, mask: Path | None) -> Any:
        names.append(path.name)
        return made(cutter, path, mask)

    monkeypatch.setattr(Cutter, "_made", noted)
    return names


def test_a_picture_more_costs_one_picture_and_a_change_of_what_counts_costs_all(raw: Path, cut: list[str]) -> None:
    for seed in range(3):
        draw(raw / f"{seed}.png", seed)
    draw(raw / "2_att.png", 9)
    prepare("pets")
    assert cut == ["0.png", "1.png", "2.png"]
    draw(raw / "3.png", 3)
    (raw / "0.png").rename(raw / "renamed.png")
    set_param("near_duplicates: 0.05", "near_duplicates: 0.2")
    prepare("pets")
    assert cut[3:] == ["3.png"]
    draw(raw / "2_att.png", 10)
    prepare("pets")
    assert cut[4:] == ["2.png"]
    set_param("resolution: 64", "resolution: 32")
    prepare("pets")
    assert sorted(cut[5:]) == ["1.png", "2.png", "3.png", "renamed.png"]


def test_what_is_damaged_or_missing_in_the_store_is_made_again(raw: Path, cut: list[str]) -> None:
    draw(raw / "a.png", 1)
    prepare("pets")
    before = sha256_tree("data/pets/prepared")
    (entry,), (png,) = Path(".cache/cuts").rglob("*.entry"), Path(".cache/prepared").rglob("*.png")
    for damage in (entry.unlink, png.unlink, partial(entry.write_bytes, b"{}"), partial(png.write_bytes, b"short")):
        damage()
        prepare("pets")
        assert sha256_tree("data/pets/prepared") == before
    assert cut == ["a.png"] * 5
    prepare("pets")
    assert cut == ["a.png"] * 5


def test_a_file_that_changes_while_it_is_cut_is_not_known_by_its_former_bytes(
    raw: Path, monkeypatch: pytest.MonkeyPatch, cut: list[str]
) -> None:
    draw(raw / "a.png", 1)
    before = (raw / "a.png").read_bytes()
    decode = cuts.read_picture

    def changing(path: Path, *rest: Any) -> Any:
        draw(path, 2)
        return decode(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(cuts, "read_picture", changing)
        prepare("pets")
    (raw / "a.png").write_bytes(before)
    prepare("pets")
    assert cut == ["a.png", "a.png"]


def test_a_folder_without_a_usable_picture_is_an_error_that_names_it_and_what_to_do(raw: Path) -> None:
    with pytest.raises(InputError, match=r"raw: holds no pictures\. Next: put pictures there"):
        prepare("pets")
    draw(raw / "tiny.png", 1, (9, 9))
    with pytest.raises(InputError, match=r"none of its 1 files .*tiny.png: 9×9 .*enlarge: true"):
        prepare("pets")
    assert not Path("data/pets/prepared").exists()
    assert list(Path("data/pets").iterdir()) == []


def test_unreadable_files_stop_the_stage_when_that_is_wished_and_what_was_there_stays(raw: Path) -> None:
    draw(raw / "a.png", 1)
    prepare("pets")
    before = sha256_tree("data/pets/prepared")
    (raw / "b.png").write_bytes(b"broken")
    set_param("unreadable: skip", "unreadable: stop")
    with pytest.raises(InputError, match="b.png"):
        prepare("pets")
    assert sha256_tree("data/pets/prepared") == before


def test_what_is_noted_of_pictures_is_told_with_counts_and_each_warning_is_one_line_whatever_names_hold(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(30):
        name = f"{number}\n\x1b[31m{'long ' * 40}.gif"
        pages = [Image.effect_noise((64, 64), 50 + number) for _ in range(2)]
        pages[0].save(raw / name, save_all=True, append_images=pages[1:])
    (raw / "gone.png").symlink_to("nothing")
    (raw / "a.zip.jpg").write_bytes(b"PK\3\4")
    prepare("pets")
    warnings = capsys.readouterr().err.splitlines()
    assert all(line.startswith("warning: pets: ") and len(line) < 320 for line in warnings)
    assert all(line.isprintable() for line in warnings)
    assert any("only the first frame or page is used: 30: " in line for line in warnings)
    assert any("left out: 2: gone.png (is a link to nothing); a.zip.jpg (is a ZIP" in line for line in warnings)


def test_a_folder_of_links_to_nothing_says_so_and_stops_where_that_is_wished(raw: Path) -> None:
    (raw / "gone.png").symlink_to("nothing")
    with pytest.raises(
        InputError, match=r"none of its 1 files can be used as a picture; gone.png: is a link to nothing"
    ):
        prepare("pets")
    draw(raw / "a.png", 1)
    set_param("unreadable: skip", "unreadable: stop")
    with pytest.raises(InputError, match="raw/gone.png: is a link to nothing"):
        prepare("pets")


def test_a_misspelt_setting_is_named_with_the_right_one(raw: Path) -> None:
    set_param("resolution: 64", "resolutoin: 64")
    with pytest.raises(ParamsError, match=r"resolutoin.*did you mean `resolution`"):
        prepare("pets")


def test_faces_that_are_found_are_kept_and_listed_in_the_pixels_of_the_file(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_param("crop: center", "crop: faces")
    draw(raw / "a.png", 1, (80, 320))
    monkeypatch.setattr(faces, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="EXTRAS=faces"):
        prepare("pets")
    assert not Path("data/pets/prepared").exists()
    monkeypatch.setattr(faces, "refuse_missing", lambda _: None)
    monkeypatch.setattr(faces, "find_faces", lambda _: [(20.0, 250.0, 60.0, 290.0)])
    monkeypatch.setattr(faces, "version", lambda: "4.12.0")
    prepare("pets")
    listing = read_json("data/pets/prepared/images.json")
    assert listing["opencv"] == "4.12.0"  # another version may find other boxes
    (facts,) = listing["images"].values()
    assert facts["faces"] == [[20, 250, 60, 290]]
    assert facts["crop"][1] <= 240
    assert facts["crop"][3] >= 298


def entry(file: str, *, crop: int = 64, flipped: bool = False, enlarged: bool = False) -> dict[str, object]:
    """A picture of a listing; its source is a square of 64 px."""
    return {
        "sources": [file],
        "crop": [0, 0, crop, 64],
        "source_size": [64, 64],
        "flipped": flipped,
        "enlarged": enlarged,
    }


def test_what_was_found_is_told_in_one_order_and_copies_are_not_counted_twice(
    capsys: pytest.CaptureFixture[str],
) -> None:
    images = {
        "1": entry("a.png", crop=32, enlarged=True),
        "2": entry("a.png", crop=32, enlarged=True, flipped=True) | {"of": "1"},
        "3": entry("b.png"),
    }
    listing = {
        "images": images,
        "skipped": {"c.png": "9×9", "d.png": "9×9"},
        "duplicates": {"e.png": "b.png"},
        "near_duplicates": [["1", "3"]],
        "not_at": {"96": {"too small": ["a.png"], "the same as another": ["b.png"]}},
        "notes": {"b.png": ["has a profile", "has a colour key"], "a.png": ["has a profile"]},
    }
    _tell("pets", 7, listing)
    told = capsys.readouterr()
    assert told.out.splitlines() == [
        "pets: 3 pictures (1 of them copies) from 7 files",
        "pets: 1 of them show a part of their picture; to see which: etude crops pets",
    ]
    assert told.err.splitlines() == [
        "warning: pets: left out: 2: c.png (9×9); d.png (9×9)",
        "warning: pets: the same pixels as another: 1: e.png = b.png",
        "warning: pets: nearly the same: 1: a.png ~ b.png",
        "warning: pets: enlarged: 1: a.png",
        "warning: pets: not at 96 px (too small): 1: a.png",
        "warning: pets: not at 96 px (the same as another): 1: b.png",
        "warning: pets: has a colour key: 1: b.png",
        "warning: pets: has a profile: 2: b.png; a.png",
    ]
    _tell("pets", 1, {"images": {"3": entry("b.png")}, "skipped": {}, "duplicates": {}, "near_duplicates": []})
    told = capsys.readouterr()
    assert (told.out, told.err) == ("pets: 1 pictures (0 of them copies) from 1 files\n", "")
