"""Overrides are checked before anything is started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from etude.core.errors import InputError, ParamsError
from flows import drafts, plan, repository
from tests.shipped import copy_project


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = copy_project(tmp_path_factory.mktemp("drafts") / "project")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], cwd=copy, check=True)
    return copy


def told(checkout: Path, *words: str) -> str:
    """What a command of this checkout, which must fail, says."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=checkout, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr


def test_a_sweep_is_refused_before_a_server_is_started(checkout: Path) -> None:
    file = "pipelines/lora/params.yaml"
    for override, fault in (
        (f"{file}:rnk=4,8", f"error: {file}:rnk=4: there is no key `rnk`, did you mean `rank`?"),
        (f"{file}:rank=4,0", f"error: -S {file}:rank=0: {file}: `rank`"),
        ("pipelines/loar/params.yaml:rank=4", "error: pipelines/loar/params.yaml:rank=4: there is no such file."),
    ):
        said = told(checkout, "flows.sweep", "-S", override, "lora")
        assert said.startswith(fault), said
        assert said.count("Next:") == 1
    assert not (checkout / ".scratch/prefect").exists()


def test_a_key_within_lists_and_mappings_is_found_or_named(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("grid:\n  rows: [{at: 1}, {at: 2}]\n")
    repository.override(tmp_path, {"params.yaml": ["grid.rows=[3]", "+grid.more=4"]})
    assert "more: 4" in (tmp_path / "params.yaml").read_text()
    for key in ("grid.row", "grid.rows.at", "grid.rows.1", "grid.more.x", "gird.rows"):
        with pytest.raises(InputError, match=f"there is no key `{key}`"):
            repository.override(tmp_path, {"params.yaml": [f"{key}=1"]})


def test_each_combination_is_tried_on_a_draft_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pipelines/lora").mkdir(parents=True)
    (tmp_path / "params.yaml").write_text("sets: {}\n")
    (tmp_path / "pipelines/lora/params.yaml").write_text("rank: 1\nrate: 2\n")
    file = "pipelines/lora/params.yaml"
    seen: list[tuple[str, bool]] = []

    def check(draft: Path) -> None:
        text = (draft / file).read_text()
        seen.append((text, (draft / "params.yaml").exists()))
        if "rank: 9" in text:
            raise ParamsError(f"{draft}/{file}", "`rank` is wrong", "write less")

    monkeypatch.setattr(drafts, "check_all", check)
    values = [{file: ["rank=4"]}, {file: ["rate=3"]}, {file: ["rate=5", "rank=9"], "params.yaml": ["sets={}"]}]
    drafts.check(tmp_path, values)  # another project: its own code checks its parameters
    assert seen == []
    monkeypatch.setattr(plan, "CHECKOUT", tmp_path)
    fault = rf"^-S {file}:rate=5 {file}:rank=9 params\.yaml:sets=\{{\}}: {file}: `rank` is wrong"
    with pytest.raises(ParamsError, match=fault):
        drafts.check(tmp_path, values)
    texts = ["rank: 4\nrate: 2\n", "rank: 1\nrate: 3\n", "rank: 9\nrate: 5\n"]
    assert seen == [(text, True) for text in texts]
    assert (tmp_path / file).read_text() == "rank: 1\nrate: 2\n"
