"""The words around a grid, and the file that tells other programs of its cells."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from etude.grids.axes import Axis
from etude.grids.cells import cells
from etude.grids.layout import Label
from etude.grids.sheet import labels, manifest, measured, sheet
from etude.rendering.pixels import open_picture, pixel_digest
from tests.etude.grids.test_cells import CHOICES, DEFAULTS, axis


def subtitle(*axes: Axis | None) -> str:
    return sheet("lora", "sd15", axes, CHOICES, DEFAULTS, 64).subtitle


def test_the_subtitle_names_the_axes_and_every_setting_that_no_axis_varies() -> None:
    assert subtitle(None, None, None) == (
        "base sd15 · name sks · checkpoint 000200 · sks · sampler dpm++ · steps 2 · guidance 3.0 · seed 7 · strength 1"
    )
    assert subtitle(axis("checkpoint", "all"), axis("prompt", "all"), axis("seed", "0-1")) == (
        "columns: checkpoint · rows: prompt · blocks: seed · base sd15 · name sks · sampler dpm++ · steps 2 · "
        "guidance 3.0 · strength 1"
    )
    assert subtitle(None, axis("strength", "0-1"), axis("steps", "1-2")) == (
        "rows: strength · blocks: steps · base sd15 · name sks · checkpoint 000200 · sks · sampler dpm++ · "
        "guidance 3.0 · seed 7"
    )


def test_the_title_is_the_method_and_its_name_and_cells_are_square() -> None:
    made = sheet("lora", "sd15", (None, axis("seed", "0-2"), None), CHOICES, DEFAULTS, 64)
    assert (made.title, made.cell) == ("lora · sks", (64, 64))
    assert [label.text for label in made.rows] == ["seed 0", "seed 1", "seed 2"]
    assert made.columns == made.blocks == [Label("")]


def test_the_best_checkpoint_alone_is_marked_and_the_base_alone_is_quiet() -> None:
    made = labels(axis("checkpoint", "all"), CHOICES, "sks")
    assert [(label.quiet, label.marked) for label in made] == [
        (True, False),
        (False, False),
        (False, True),
        (False, False),
    ]
    named = labels(axis("prompt", "base, 000200, a [name]"), CHOICES, "sks")  # prompts with the names of checkpoints
    assert named == [Label("base"), Label("000200"), Label("a sks")]


def test_a_cell_of_the_manifest_has_the_numbers_of_its_picture_and_prompt(tmp_path: Path) -> None:
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    for number, path in enumerate(paths):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    axes = (axis("seed", "3, 9"), None, None)
    made = cells(axes, CHOICES, DEFAULTS)
    digest = pixel_digest(open_picture(paths[1]))
    table = tmp_path / "pictures.csv"
    table.write_text(f"picture,prompt,score,empty\n{digest},[name],0.25,\n{digest},a [name],0.5,\n")
    numbers = measured(table, "sks")
    assert numbers == {(digest, "sks"): {"score": 0.25}, (digest, "a sks"): {"score": 0.5}}
    listed = manifest(axes, made, paths, numbers)
    assert listed["axes"] == {
        "x": {"axis": "seed", "values": [3, 9], "labels": ["seed 3", "seed 9"]},
        "y": None,
        "z": None,
    }
    first, second = listed["cells"]
    assert (first["numbers"], second["numbers"]) == ({}, {"score": 0.25})
    assert (second["position"], second["picture"], second["seed"]) == ([1, 0, 0], digest, 9)
    assert (second["checkpoint"], second["prompt"], second["settings"]) == ("000200", "sks", {"strength": 1.0})
