from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from etude.core.params import read_yaml
from etude.project import check
from tests.shipped import ROOT, copy_project

PRESETS = sorted(path.stem for path in (ROOT / "presets").glob("*.yaml"))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return copy_project(tmp_path / "project")


def preset(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "commands.preset", name]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def texts(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("params.yaml"))}


def test_what_is_shipped_is_as_the_miniature_wants_it(copy: Path) -> None:
    before = texts(copy)
    assert preset(copy, "miniature").returncode == 0
    assert texts(copy) == before


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "miniature"])
def test_a_preset_fits_together_and_the_way_back_restores_every_byte(copy: Path, name: str) -> None:
    before = texts(copy)
    result = preset(copy, name)
    assert result.returncode == 0, result.stderr
    assert check(copy).base == f"models/{name}"
    assert "next: etude base, which fetches " in result.stdout
    assert f" models/{name} " in result.stdout
    changed = texts(copy)
    assert {line.split("#")[1] for t in before.values() for line in t.splitlines() if "#" in line} == {
        line.split("#")[1] for t in changed.values() for line in t.splitlines() if "#" in line
    }
    assert preset(copy, "miniature").returncode == 0
    assert texts(copy) == before


def test_all_presets_set_the_same_keys() -> None:
    keys = []
    for name in PRESETS:
        content = read_yaml(ROOT / "presets" / f"{name}.yaml")
        keys.append({(file, key) for file, values in content.items() if file != "fetch" for key in values})
    assert all(k == keys[0] for k in keys)


def test_an_unknown_preset_is_answered_with_the_nearest(copy: Path) -> None:
    result = preset(copy, "sd_15")
    assert result.returncode == 1
    assert "did you mean `sd15`" in result.stderr


def test_a_preset_that_does_not_fit_changes_nothing(copy: Path) -> None:
    text = (copy / "presets/sd15.yaml").read_text().replace("rank: 16 ", "rank: -1 ")
    (copy / "presets/sd15.yaml").write_text(text)
    before = texts(copy)
    result = preset(copy, "sd15")
    assert result.returncode == 1
    assert "rank" in result.stderr
    assert texts(copy) == before
