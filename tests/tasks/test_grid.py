from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from etude.core.errors import EtudeError, ParamsError
from etude.core.files import read_json, sha256_tree, write_json
from etude.core.params import read_yaml
from tasks.grid import grid
from tests.finished import build, copy, write_yaml


@pytest.fixture
def folder(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return copy(finished, tmp_path, monkeypatch)


def turn(folder: Path, **changes: object) -> None:
    root = read_yaml(folder / "params.yaml")
    write_yaml(folder / "params.yaml", {**root, "grid": {**root["grid"], **changes}})


def test_the_grid_uses_the_pictures_of_the_evaluation(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    grid("lora")
    assert "12 cells, 0 pictures drawn now" in capsys.readouterr().out
    out = folder / "artifacts/lora/grid"
    with Image.open(out / "grid.png") as picture:
        assert picture.width > 3 * 32


def test_training_pictures_lie_beside_the_grid_with_their_captions(folder: Path) -> None:
    grid("lora")
    shown, data = folder / "artifacts/lora/grid/training", folder / "data/concept"
    names = [path.stem for path in sorted(shown.glob("*.png"))]
    assert len(names) == 3
    for name in names:
        assert (shown / f"{name}.png").read_bytes() == (data / f"prepared/{name}.png").read_bytes()
        assert (shown / f"{name}.txt").read_text() == (data / f"captioned/{name}.txt").read_text()


def test_of_many_training_pictures_eight_from_all_over_the_set_lie_beside_the_grid(folder: Path) -> None:
    data = folder / "data/concept"
    images = read_json(data / "prepared/images.json")["images"]
    (plain, entry), *_ = (
        (name, entry) for name, entry in sorted(images.items()) if (data / f"captioned/{name}.txt").exists()
    )
    for number in range(24):
        for room, suffix in (("prepared", "png"), ("captioned", "txt")):
            shutil.copy(data / room / f"{plain}.{suffix}", data / room / f"z{number:02}.{suffix}")
    write_json(data / "prepared/images.json", {"images": {f"z{number:02}": entry for number in range(24)}})
    grid("lora")
    shown = folder / "artifacts/lora/grid/training"
    for suffix in ("png", "txt"):
        assert [path.stem for path in sorted(shown.glob(f"*.{suffix}"))] == [
            f"z{number:02}" for number in range(0, 24, 3)
        ]


def test_the_manifest_tells_of_each_cell_what_it_is_and_how_it_scores(folder: Path) -> None:
    grid("lora")
    manifest = read_json(folder / "artifacts/lora/grid/manifest.json")
    assert manifest["axes"]["x"]["values"] == ["base", "000010", "000020"]
    first = manifest["cells"][0]
    assert (first["position"], first["checkpoint"], first["prompt"]) == ([0, 0, 0], "base", "sks")
    assert -1 <= first["numbers"]["image_similarity"] <= 1
    assert all(cell["numbers"] for cell in manifest["cells"])
    assert len({cell["picture"] for cell in manifest["cells"]}) == 12


def test_a_new_checkpoint_draws_only_its_own_cells(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(folder, (10, 20, 30))
    capsys.readouterr()
    grid("lora")
    assert "16 cells, 4 pictures drawn now" in capsys.readouterr().out


def test_the_methods_own_axis_is_turned_and_a_second_run_gives_the_same_bytes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turn(folder, x={"axis": "strength", "values": "0-1 [3]"}, z=None)
    capsys.readouterr()
    grid("lora")
    assert "6 cells, 6 pictures drawn now" in capsys.readouterr().out
    cells = read_json(folder / "artifacts/lora/grid/manifest.json")["cells"]
    assert [cell["settings"]["strength"] for cell in cells[:3]] == [0.0, 0.5, 1.0]
    first = sha256_tree(folder / "artifacts/lora/grid")
    grid("lora")
    assert sha256_tree(folder / "artifacts/lora/grid") == first


def test_strength_zero_draws_what_the_untouched_base_draws(folder: Path) -> None:
    turn(folder, x={"axis": "checkpoint", "values": "base, 20"}, y={"axis": "strength", "values": "0-1"}, z=None)
    grid("lora")
    base, zero, _, one = (cell["picture"] for cell in read_json(folder / "artifacts/lora/grid/manifest.json")["cells"])
    assert base == zero != one


def test_a_grid_too_large_is_refused_before_anything_is_drawn(folder: Path) -> None:
    turn(folder, z={"axis": "seed", "values": "0-900"}, cell=128)
    before = sha256_tree(folder / ".cache/images")
    with pytest.raises(ParamsError, match="megapixels"):
        grid("lora")
    assert sha256_tree(folder / ".cache/images") == before


def test_an_axis_that_the_method_lacks_is_refused(folder: Path) -> None:
    turn(folder, x={"axis": "strenght", "values": "0-1"})
    with pytest.raises(ParamsError, match="did you mean `strength`"):
        grid("lora")


def test_a_missing_evaluation_is_named(folder: Path) -> None:
    (folder / "artifacts/lora/evaluation/pictures.csv").unlink()
    with pytest.raises(EtudeError, match=r"pictures\.csv"):
        grid("lora")
