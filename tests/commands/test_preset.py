from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from etude.core.params import read_yaml
from etude.project import check
from tests.shipped import ROOT, copy_project, run_module

PRESETS = sorted(path.stem for path in (ROOT / "presets").glob("*.yaml"))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return copy_project(tmp_path / "project")


def texts(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("params.yaml"))}


def test_what_is_shipped_is_as_the_miniature_wants_it(copy: Path) -> None:
    before = texts(copy)
    assert run_module(copy, "commands.preset", "miniature").returncode == 0
    assert texts(copy) == before


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "miniature"])
def test_a_preset_fits_together_and_the_way_back_restores_every_byte(copy: Path, name: str) -> None:
    before = texts(copy)
    result = run_module(copy, "commands.preset", name)
    assert result.returncode == 0, result.stderr
    assert check(copy).base == f"models/{name}"
    assert "next: etude base, which fetches " in result.stdout
    assert f" models/{name} " in result.stdout
    changed = texts(copy)
    assert {line.split("#")[1] for t in before.values() for line in t.splitlines() if "#" in line} == {
        line.split("#")[1] for t in changed.values() for line in t.splitlines() if "#" in line
    }
    assert run_module(copy, "commands.preset", "miniature").returncode == 0
    assert texts(copy) == before


def test_all_presets_set_the_same_keys() -> None:
    keys = []
    for name in PRESETS:
        content = read_yaml(ROOT / "presets" / f"{name}.yaml")
        keys.append({(file, key) for file, values in content.items() if file != "fetch" for key in values})
    assert all(k == keys[0] for k in keys)


def test_an_unknown_preset_is_answered_with_the_nearest(copy: Path) -> None:
    result = run_module(copy, "commands.preset", "sd_15")
    assert result.returncode == 1
    assert "did you mean `sd15`" in result.stderr


def test_a_preset_that_does_not_fit_changes_nothing(copy: Path) -> None:
    text = (copy / "presets/sd15.yaml").read_text().replace("rank: 16 ", "rank: -1 ")
    (copy / "presets/sd15.yaml").write_text(text)
    before = texts(copy)
    result = run_module(copy, "commands.preset", "sd15")
    assert result.returncode == 1
    assert "rank" in result.stderr
    assert texts(copy) == before


def test_a_method_that_a_preset_lacks_is_named_and_left_as_it_is(copy: Path) -> None:
    preset_file = copy / "presets/sd15.yaml"
    text = preset_file.read_text(encoding="utf-8")
    preset_file.write_text(re.sub(r"\npipelines/lora/params.yaml:.*\n(  .*\n|\n)*", "\n", text), encoding="utf-8")
    before = (copy / "pipelines/lora/params.yaml").read_text()
    result = run_module(copy, "commands.preset", "sd15")
    assert result.returncode == 0, result.stderr
    said = " ".join(result.stderr.split())
    assert "the preset sd15 has no values for pipelines/lora/params.yaml: the file is unchanged" in said
    assert said.count("has no values") == 1
    assert (copy / "pipelines/lora/params.yaml").read_text() == before


def test_values_for_a_method_that_is_not_here_are_named_and_left_out(copy: Path) -> None:
    shutil.rmtree(copy / "pipelines/null_text_inversion")
    result = run_module(copy, "commands.preset", "sd15")
    assert result.returncode == 0, result.stderr
    said = " ".join(result.stderr.split())
    assert "the preset sd15 has values for pipelines/null_text_inversion/params.yaml, but this method is not" in said
    assert check(copy).base == "models/sd15"
