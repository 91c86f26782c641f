"""Contact sheets: the real stage cuts pictures that are drawn here, and the command draws the crops on them."""

from pathlib import Path

import pytest
from PIL import Image

from commands import contact_sheet
from commands.contact_sheet import COLUMNS, GAP, ROWS, SIDE
from commands.crops import crops
from etude.core.errors import InputError
from tasks.prepare import prepare
from tests.tasks.front import draw, make_project, set_param


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(make_project(tmp_path, Path("nowhere")))
    return Path("raw")


def plain(path: Path, size: tuple[int, int], colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def sheet() -> Image.Image:
    with Image.open("logs/crops/pets/001.jpg") as image:
        return image.copy()


def brightness(number: int, across: float, down: float) -> int:
    """The red of the place in the tile of that number (0 … 1 from left to right, and down)."""
    left = GAP + number * (SIDE + GAP)
    return sheet().getpixel((left + int(across * SIDE), GAP + int(down * SIDE)))[0]


def test_what_a_crop_leaves_out_is_dark_and_the_most_cut_picture_comes_first(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain(raw / "a.png", (80, 80), (250, 120, 120))
    plain(raw / "b.png", (160, 80), (251, 120, 120))
    plain(raw / "c.png", (80, 320), (252, 120, 120))
    prepare("pets")
    assert "pets: 2 of them show a part of their picture; to see which: etude crops pets" in capsys.readouterr().out
    crops("pets")
    assert capsys.readouterr().out == "logs/crops/pets/001.jpg\n"
    assert [brightness(0, 0.5, at) > 200 for at in (0.1, 0.5, 0.9)] == [False, True, False]  # c: a quarter is kept
    assert [brightness(1, at, 0.5) > 200 for at in (0.1, 0.5, 0.9)] == [False, True, False]  # b: half
    assert [brightness(2, at, 0.5) > 200 for at in (0.1, 0.5, 0.9)] == [True, True, True]  # a: all


def test_each_picture_is_drawn_once_also_if_it_is_flipped_split_or_the_same_as_another(raw: Path) -> None:
    set_param("flip: false", "flip: true")
    set_param("split: 0.0", "split: 0.9")
    draw(raw / "a.png", 1, (80, 320))
    draw(raw / "same.png", 1, (80, 320))
    prepare("pets")
    assert len(list(Path("data/pets/prepared").glob("*.png"))) > 2
    crops("pets")
    assert sheet().width == SIDE + 2 * GAP


def test_large_sets_take_several_sheets_and_earlier_ones_are_gone(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact_sheet, "ROWS", 1)
    for number in range(COLUMNS + 1):
        draw(raw / f"{number}.png", number)
    prepare("pets")
    crops("pets")
    assert sorted(path.name for path in Path("logs/crops/pets").iterdir()) == ["001.jpg", "002.jpg"]
    monkeypatch.setattr(contact_sheet, "ROWS", ROWS)
    crops("pets")
    assert [path.name for path in Path("logs/crops/pets").iterdir()] == ["001.jpg"]


def test_a_set_that_is_not_prepared_or_has_changed_is_an_error_that_says_what_to_run(raw: Path) -> None:
    draw(raw / "a.png", 1)
    with pytest.raises(InputError, match=r"images.json: is missing: .* Next: run `dvc repro prepare@pets`"):
        crops("pets")
    prepare("pets")
    crops("pets")
    (raw / "a.png").unlink()
    with pytest.raises(InputError, match=r"a.png: was cut .* but no longer exists. Next: run `dvc repro prepare@pets`"):
        crops("pets")
    draw(raw / "a.png", 1, (300, 100))
    with pytest.raises(InputError, match=r"a.png: has changed since it was cut. Next: run `dvc repro prepare@pets`"):
        crops("pets")
    assert Path("logs/crops/pets/001.jpg").is_file()


def test_a_crop_thinner_than_a_pixel_of_the_sheet_is_drawn(raw: Path) -> None:
    set_param("enlarge: false", "enlarge: true")
    for name, size in {"a": (3000, 4), "b": (4, 3000)}.items():
        plain(raw / f"{name}.png", size, (250, 120, 120))
    prepare("pets")
    crops("pets")
    assert sheet().width == 2 * SIDE + 3 * GAP
