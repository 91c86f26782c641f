"""What a page reads of the files of its method."""

from __future__ import annotations

from pathlib import Path

import pytest

from etude.core.errors import InputError
from etude.pages.page import candidate_name, flatten
from etude.pages.sources import caption_of, docstring, exported, losses


def test_a_methods_docstring_is_read_by_paragraphs_and_no_code_runs(tmp_path: Path) -> None:
    code = tmp_path / "__init__.py"
    code.write_text('"""LoRA: a low-rank\nchange.\n\n\n  More   of it.\n"""\nraise SystemExit\n')
    assert docstring(code) == ("LoRA: a low-rank change.", "More of it.")
    code.write_text("raise SystemExit\n")
    assert docstring(code) == ()
    with pytest.raises(InputError, match=r"gone.py: is missing.*Next: restore it with git"):
        docstring(tmp_path / "gone.py")


def test_of_several_exported_checkpoints_the_files_of_the_chosen_one_are_told(tmp_path: Path) -> None:
    (tmp_path / "sks").mkdir()
    for name, size in {"sks.pt": 3, "sks/unet.bin": 7}.items():
        (tmp_path / name).write_bytes(bytes(size))
    paths = ["sks/unet.bin", "sks.pt", "checkpoints/000010/sks.pt"]
    listing = {"files": [{"path": path} for path in paths]}
    found = exported(tmp_path, listing, {"sks.pt": "A1111", "unet.bin": "the UNet"})
    assert [(file.name, file.size, file.about) for file in found] == [
        ("sks.pt", 3, "A1111"),
        ("sks/unet.bin", 7, "the UNet"),
    ]
    assert exported(tmp_path, listing, {})[0].about == ""


def test_a_curve_has_steps_and_losses_and_none_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "plots/metrics").mkdir(parents=True)
    (tmp_path / "plots/metrics/loss.tsv").write_text("step\tloss\n5\t0.5\n10\t0.25\n")
    assert losses(tmp_path) == [(5, 0.5), (10, 0.25)]
    assert losses(tmp_path / "nothing") == []


def test_a_picture_without_a_text_beside_it_has_no_caption(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a fox\n")
    assert [caption_of(tmp_path / name) for name in ("a.png", "b.png")] == ["a fox", ""]


def test_a_row_is_named_by_what_it_is() -> None:
    names = [candidate_name(*row) for row in (("base", 0), ("000300", 300), ("final", None), ("final", 5))]
    assert names == ["untouched base", "step 300", "final", "step 5"]


def test_nested_parameters_have_dotted_names() -> None:
    values = {"rank": 4, "training": {"steps": 10, "optimizer": {"kind": "adamw"}}}
    assert list(flatten(values)) == [("rank", 4), ("training.steps", 10), ("training.optimizer.kind", "adamw")]
