from __future__ import annotations

from pathlib import Path

import pytest

from etude.core.artifact import Artifact, save
from etude.core.errors import FormatError, InputError, ParamsError
from etude.core.files import write_json
from etude.core.placeholder import fill
from etude.core.tensors import write_tensors
from etude.rendering.candidates import candidates
from etude.rendering.prompts import prompts_of
from etude.rendering.real import evenly, real_pictures
from tests.finished import build


def test_the_base_comes_first_then_checkpoints_by_step(tmp_path: Path) -> None:
    build(tmp_path, (10, 9, 100))
    found = candidates(tmp_path / "artifacts/lora/build")
    assert [(s.name, s.step, s.final) for s in found] == [
        ("base", 0, False),
        ("000009", 9, False),
        ("000010", 10, False),
        ("000100", 100, True),
    ]
    assert found[0].path is None


def test_a_method_without_checkpoints_has_its_final_artifact(tmp_path: Path) -> None:
    save(Artifact("model_merge", {}, {}), tmp_path / "artifact.safetensors")
    assert [(s.name, s.step) for s in candidates(tmp_path)] == [("base", 0), ("final", None)]


def test_a_file_that_is_no_artifact_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"artifact\.safetensors: is missing"):
        candidates(tmp_path)
    write_tensors(tmp_path / "artifact.safetensors", {})
    with pytest.raises(FormatError, match=r"artifact\.safetensors"):
        candidates(tmp_path)


def test_the_name_takes_its_place_and_leaves_no_gap() -> None:
    assert fill("a [name] on a [name]", "sks") == "a sks on a sks"
    assert fill("noto [name] on a red background", "") == "noto on a red background"


def test_a_set_without_prompts_is_an_error() -> None:
    assert prompts_of({"concept": ["[name]"]}, "concept") == ["[name]"]
    with pytest.raises(ParamsError, match=r"prompts\.cats"):
        prompts_of({"concept": ["[name]"]}, "cats")


def test_copies_are_no_real_pictures(tmp_path: Path) -> None:
    write_json(tmp_path / "images.json", {"images": {"b": {"flipped": False}, "b-flip": {"flipped": True, "of": "b"}}})
    assert real_pictures(tmp_path) == ["b"]
    write_json(tmp_path / "images.json", {"images": {}})
    with pytest.raises(InputError, match="holds no pictures"):
        real_pictures(tmp_path)


def test_a_few_are_chosen_evenly() -> None:
    names = [str(number) for number in range(10)]
    assert evenly(names, 4) == ["0", "2", "5", "7"]
    assert evenly(names, 99) == names
