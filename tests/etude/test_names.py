"""What a shell completes."""

from __future__ import annotations

from pathlib import Path

import pytest

from etude import names


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    files = (
        "pipelines/lora/method/__init__.py",
        "pipelines/dreambooth/method/__init__.py",
        "pipelines/notes/README.md",
    )
    for name in (*files, "presets/sd15.yaml", "etude/formats/lora/kohya_lora.py", "etude/formats/lora/_names.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "params.yaml").write_text("sets: {style: data/style, owls: data/owls}\n")
    return tmp_path


def test_names_are_completed_in_the_order_of_the_alphabet() -> None:
    assert names.methods() == ["dreambooth", "lora"]
    assert names.methods("l") == ["lora"]
    assert names.image_sets() == ["owls", "style"]
    assert names.image_sets("s") == ["style"]
    assert names.presets() == ["sd15"]
    assert names.formats() == ["kohya_lora"]
    assert names.methods_and_sets() == ["dreambooth", "lora", "owls", "style"]
    assert names.among("b", "a", "ab")("a") == ["a", "ab"]


def test_the_stages_of_methods_and_sets_are_targets() -> None:
    assert names.targets("lora") == ["lora", "lora:build", "lora:evaluate", "lora:export", "lora:grid"]
    front = ["caption@owls", "encode@owls", "prepare@owls", "set_page@owls"]
    assert [name for name in names.targets() if name.endswith("@owls")] == front


@pytest.mark.parametrize("text", ["sets: [\n", "sets: 3\n", "seed: 1\n"])
def test_params_that_cannot_be_read_have_no_sets(folder: Path, text: str) -> None:
    (folder / "params.yaml").write_text(text)
    assert names.image_sets() == []
