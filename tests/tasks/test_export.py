from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.core import artifact as artifacts
from etude.core.artifact import Artifact
from etude.core.errors import InputError, StaleError
from etude.core.files import read_json, sha256_tree, write_json
from etude.core.method import load_method, method_names
from etude.formats import identify, load_format
from tasks.export import export
from tests.finished import write_yaml
from tests.pipelines.learning import same

FACTS: dict[str, Any] = {"name": "otter", "rank": 2, "alpha": 1.0, "family": "sd1", "prediction": "epsilon", "step": 9}
NAME = "unet.mid_block.attentions.0.proj_in"
MADE = {
    "lora": {f"{NAME}.lora_A.weight": torch.ones(2, 4, 1, 1), f"{NAME}.lora_B.weight": torch.ones(4, 2, 1, 1)},
    "textual_inversion": {"text_encoder": torch.ones(3, 8)},
}


STEPS = (3, 6, 9)
BEST = "000006"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Builds with three checkpoints, each with other values, of which the second is the best."""
    for method in MADE:
        build = tmp_path / "artifacts" / method / "build"
        for step in STEPS:
            for file in (f"checkpoints/{step:06d}", "artifact"):
                artifacts.save(
                    Artifact(method, values(method, step), FACTS | {"step": step}), build / f"{file}.safetensors"
                )
        write_json(build.parent / "best.json", {"checkpoint": BEST})
        choose(tmp_path, method, "best")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def choose(project: Path, method: str, wanted: str) -> None:
    write_yaml(project / "pipelines" / method / "params.yaml", {"export": wanted})


def values(method: str, step: int) -> dict[str, torch.Tensor]:
    return {name: tensor * step for name, tensor in MADE[method].items()}


def files_of(folder: Path) -> list[Path]:
    """What other programs load."""
    return sorted(path for path in folder.iterdir() if path.is_file() and path.name != "export.json")


def holds(file: Path, tensors: dict[str, torch.Tensor]) -> bool:
    """Whether the file has these values; a file of diffusers has the scale alpha / rank in B."""
    found, facts = load_format(identify(file)).read(file)
    if identify(file) == "diffusers_lora":
        b = f"{NAME}.lora_B.weight"
        found[b] = found[b] * (facts["alpha"] / FACTS["alpha"])
    else:
        assert facts.get("alpha", 1.0) == 1.0
    return same(found, tensors)


@pytest.mark.parametrize("method", MADE)
def test_every_format_of_a_method_is_written_and_told(
    method: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(method)
    files = files_of(project / "artifacts" / method / "export")
    assert sorted(identify(file) for file in files) == sorted(load_method(method).formats)
    said = capsys.readouterr().out
    assert all(file.name in said for file in files)
    listed = read_json(project / "artifacts" / method / "export/export.json")
    assert (listed["export"], listed["checkpoint"], listed["step"]) == ("best", BEST, 6)
    assert {file["path"]: file["format"] for file in listed["files"]} == {file.name: identify(file) for file in files}


@pytest.mark.parametrize("method", MADE)
@pytest.mark.parametrize(("wanted", "step"), [("best", 6), ("final", 9), ("all", 6)])
def test_the_files_hold_the_very_checkpoint_that_was_asked_for(
    wanted: str, step: int, method: str, project: Path
) -> None:
    choose(project, method, wanted)
    export(method)
    for file in files_of(project / "artifacts" / method / "export"):
        assert holds(file, values(method, step)), file


@pytest.mark.parametrize("method", MADE)
def test_of_all_each_lies_in_a_folder_of_its_own_and_has_its_step_in_its_name(method: str, project: Path) -> None:
    choose(project, method, "all")
    export(method)
    folder = project / "artifacts" / method / "export"
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [f"{step:06d}" for step in STEPS]
    for step in STEPS:
        files = files_of(folder / "checkpoints" / f"{step:06d}")
        assert sorted(identify(file) for file in files) == sorted(load_method(method).formats)
        assert all(holds(file, values(method, step)) for file in files)
        fixed = ("pytorch_lora_weights", "learned_embeds")  # names by which diffusers looks for them
        assert {file.stem for file in files} - set(fixed) == {f"otter-{step:06d}"}
    assert [path.stem for path in files_of(folder) if path.stem not in fixed] == ["otter"] * (len(files) - 1)


def test_the_best_of_all_is_the_same_file_under_both_names(project: Path) -> None:
    choose(project, "lora", "all")
    export("lora")
    folder = project / "artifacts/lora/export"
    same = folder / f"checkpoints/{BEST}/otter-{BEST}.safetensors"
    assert same.read_bytes() == (folder / "otter.safetensors").read_bytes()


def test_an_embedding_among_others_is_called_by_the_word_that_programs_take_from_its_file(project: Path) -> None:
    choose(project, "textual_inversion", "all")
    export("textual_inversion")
    for file in sorted((project / f"artifacts/textual_inversion/export/checkpoints/{BEST}").glob("otter*")):
        assert load_format(identify(file)).read(file)[1]["name"] == f"otter-{BEST}"


@pytest.mark.parametrize("wanted", ["best", "final", "all"])
def test_a_method_without_checkpoints_exports_what_it_made(wanted: str, project: Path) -> None:
    build = project / "artifacts/lora/build"
    shutil.rmtree(build / "checkpoints")
    write_json(build.parent / "best.json", {"checkpoint": "final"})
    choose(project, "lora", wanted)
    export("lora")
    folder = project / "artifacts/lora/export"
    assert sorted(path.name for path in folder.iterdir()) == [
        "export.json",
        "otter.safetensors",
        "pytorch_lora_weights.safetensors",
    ]
    assert holds(folder / "otter.safetensors", values("lora", 9))


def test_a_best_that_was_not_built_is_refused(project: Path) -> None:
    write_json(project / "artifacts/lora/best.json", {"checkpoint": "000007"})
    with pytest.raises(StaleError, match=r"best\.json: names 000007, which was not built"):
        export("lora")
    assert not (project / "artifacts/lora/export").exists()


@pytest.mark.parametrize("method", MADE)
def test_a_second_export_gives_the_same_bytes_and_removes_what_is_old(method: str, project: Path) -> None:
    export(method)
    folder = project / "artifacts" / method / "export"
    first = sha256_tree(folder)
    (folder / "old.pt").write_bytes(b"")
    export(method)
    assert sha256_tree(folder) == first


def test_an_export_before_a_build_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(tmp_path, "lora", "best")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"artifacts/lora/build/artifact\.safetensors: is missing"):
        export("lora")


def test_every_format_that_a_method_names_exists() -> None:
    for method in method_names():
        for name in load_method(method).formats:
            assert callable(load_format(name).write)
