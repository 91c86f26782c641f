from __future__ import annotations

from pathlib import Path

import pytest
import torch

from etude import artifact as artifacts
from etude.artifact import Artifact
from etude.errors import InputError
from etude.files import sha256_tree
from etude.formats import identify, load_format
from etude.method import load_method, method_names
from tasks.export import export

FACTS = {"name": "otter", "rank": 2, "alpha": 1.0, "family": "sd1", "prediction": "epsilon", "step": 9}
NAME = "unet.mid_block.attentions.0.proj_in"
MADE = {
    "lora": {f"{NAME}.lora_A.weight": torch.ones(2, 4, 1, 1), f"{NAME}.lora_B.weight": torch.ones(4, 2, 1, 1)},
    "textual_inversion": {"text_encoder": torch.ones(3, 8)},
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for method, tensors in MADE.items():
        path = tmp_path / "artifacts" / method / "build/artifact.safetensors"
        artifacts.save(Artifact(method, tensors, FACTS), path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("method", MADE)
def test_every_format_of_a_method_is_written_and_told(
    method: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(method)
    files = sorted((project / "artifacts" / method / "export").iterdir())
    assert sorted(identify(file) for file in files) == sorted(load_method(method).formats)
    said = capsys.readouterr().out
    assert all(file.name in said for file in files)


@pytest.mark.parametrize("method", MADE)
def test_what_is_exported_is_what_was_built(method: str, project: Path) -> None:
    export(method)
    for file in (project / "artifacts" / method / "export").iterdir():
        tensors, facts = load_format(identify(file)).read(file)
        assert sorted(tensors) == sorted(MADE[method])
        assert all(torch.equal(tensors[name], tensor) for name, tensor in MADE[method].items())
        assert facts.get("alpha", 1.0) == 1.0


@pytest.mark.parametrize("method", MADE)
def test_a_second_export_gives_the_same_bytes_and_removes_what_is_old(method: str, project: Path) -> None:
    export(method)
    folder = project / "artifacts" / method / "export"
    first = sha256_tree(folder)
    (folder / "old.pt").write_bytes(b"")
    export(method)
    assert sha256_tree(folder) == first


def test_an_export_before_a_build_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"artifacts/lora/build/artifact\.safetensors: is missing"):
        export("lora")


def test_every_format_that_a_method_names_exists() -> None:
    for method in method_names():
        for name in load_method(method).formats:
            assert callable(load_format(name).write)
