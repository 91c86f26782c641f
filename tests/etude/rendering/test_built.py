"""Artifacts by their names on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from etude.core.artifact import Artifact, save
from etude.core.errors import InputError
from etude.core.files import write_json
from etude.rendering.built import find_path
from tests.finished import build

CHECKPOINTS = Path("artifacts/lora/build/checkpoints")
FINAL = Path("artifacts/lora/build/artifact.safetensors")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which lora was built, with its best checkpoint at step 10."""
    monkeypatch.chdir(tmp_path)
    build(tmp_path, (10, 20))
    write_json(tmp_path / "artifacts/lora/best.json", {"checkpoint": "000010"})
    return tmp_path


@pytest.mark.parametrize(
    ("what", "path"),
    [
        ("lora", FINAL),
        ("lora@final", FINAL),
        ("lora@10", CHECKPOINTS / "000010.safetensors"),
        ("lora@20", CHECKPOINTS / "000020.safetensors"),
        ("lora@best", CHECKPOINTS / "000010.safetensors"),
        (str(FINAL), FINAL),
        ("artifacts", Path("artifacts")),
    ],
)
def test_a_method_names_its_result_and_with_a_step_a_checkpoint(what: str, path: Path) -> None:
    assert find_path(what) == path


def test_the_best_may_be_the_final_artifact(folder: Path) -> None:
    write_json(folder / "artifacts/lora/best.json", {"checkpoint": "final"})
    assert find_path("lora@best") == FINAL


def test_a_file_with_the_name_of_a_method_is_that_file_and_a_folder_is_not(folder: Path) -> None:
    (folder / "lora").mkdir()
    assert find_path("lora") == FINAL
    (folder / "lora").rmdir()
    (folder / "lora").touch()
    assert find_path("lora") == Path("lora")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("lora@15", r"lora@15: `15` is no step of its checkpoints: 10, 20. Next: write lora@20"),
        ("lora@last", r"`last` is no step of its checkpoints: 10, 20"),
        ("hypernetwork", r"artifact.safetensors: is missing. Next: run `dvc repro .*hypernetwork/dvc.yaml:build`"),
        ("lroa", r"lroa: is no method, did you mean `lora`\? and no file here"),
        ("gone.safetensors", r"gone.safetensors: is missing. Next: check the path"),
        ("some/folder", r"some/folder: is missing. Next: check the path"),
    ],
)  # fmt: skip
def test_what_does_not_exist_is_answered_with_what_does(what: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        find_path(what)


def test_a_method_without_checkpoints_has_its_result_alone(folder: Path) -> None:
    save(Artifact("model_merge", {}, {}), folder / "artifacts/model_merge/build/artifact.safetensors")
    assert find_path("model_merge").name == "artifact.safetensors"
    with pytest.raises(InputError, match="model_merge has no checkpoints. Next: write model_merge"):
        find_path("model_merge@10")
