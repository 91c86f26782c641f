"""What the stage *start* makes of any file, and a build that goes on from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from etude.core import artifact as artifacts
from etude.core.artifact import Artifact
from etude.core.errors import InputError, ParamsError
from etude.core.files import Draft
from etude.formats import write
from etude.project import check
from etude.training.start import FILE, NOTHING
from tasks.build import build
from tasks.start import start
from tests.shipped import copy_project, replace_in
from tests.tasks.learning import change, make_project

OWN = "pipelines/textual_inversion/params.yaml"


@pytest.fixture
def project(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A method that learns a word of four vectors, and a file of A1111 with such a word."""
    make_project(tmp_path, tiny_base, "textual_inversion", save="fp32")
    monkeypatch.chdir(tmp_path)
    facts = {"name": "rex", "vectors": 4, "step": 10, "family": "sd1", "base": "models/tiny"}
    word = Artifact("textual_inversion", {"text_encoder": torch.full((4, 32), 0.5)}, facts)
    write("embedding_pt", word, Draft(tmp_path / "models"), lambda: pytest.fail("no whole model is needed"))
    return tmp_path


def test_a_method_that_starts_from_scratch_gets_only_a_note_of_that(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "artifacts/textual_inversion/sources/start/left.safetensors").touch()
    start("textual_inversion")
    assert [path.name for path in (project / "artifacts/textual_inversion/sources/start").iterdir()] == ["start.json"]
    assert capsys.readouterr().out == "textual_inversion: starts from scratch\n"


def test_a_build_goes_on_from_a_file_of_another_program(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(project / OWN, start="models/rex.pt", **still(project))
    start("textual_inversion")
    assert capsys.readouterr().out == "textual_inversion: goes on from models/rex.pt (embedding_pt, 1 tensors)\n"
    opened = artifacts.load(project / "artifacts/textual_inversion/sources/start" / FILE)
    assert torch.equal(opened.tensors["text_encoder"], torch.full((4, 32), 0.5))
    build("textual_inversion")
    made = artifacts.load(project / "artifacts/textual_inversion/build/artifact.safetensors")
    assert torch.equal(made.tensors["text_encoder"], torch.full((4, 32), 0.5))
    assert {"artifacts/textual_inversion/sources/start", "models/tiny"} <= set(made.facts["inputs"])


def still(project: Path) -> dict[str, Any]:
    """A training that moves nothing, without previews."""
    from etude.core.params import read_yaml

    values = read_yaml(project / OWN)
    training = values["training"] | {"learning_rate": 1e-50, "steps": 1, "schedule": "constant", "checkpoint_every": 1}
    return {"training": training, "preview": values["preview"] | {"seeds": []}}


def test_a_start_that_does_not_fit_is_refused_before_weights_are_read(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(project / OWN, start="models/rex.pt", vectors=2)
    start("textual_inversion")
    monkeypatch.setattr("etude.base.loading.read_model", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(InputError, match="models/rex.pt: has 4 vectors, and `vectors` is 2. Next: change the params"):
        build("textual_inversion")


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("lora@160", "`start` is lora@160, and DVC needs a path. Next: write .*/lora/build/checkpoints/000160.safe"),
        ("dreambooth", "`start` is dreambooth, .*write artifacts/dreambooth/build/artifact.safetensors"),
        ("artifacts/lora/build", "which the build of lora itself replaces. Next: keep a copy: `cp artifacts/lora"),
        ("artifacts/lore/build", "no method is called `lore`, did you mean `lora`"),
    ],
)
def test_a_start_that_dvc_cannot_follow_is_told_with_what_to_write(tmp_path: Path, named: str, said: str) -> None:
    folder = copy_project(tmp_path / "project")
    replace_in(folder / "pipelines/lora/params.yaml", f"start: {NOTHING}", f"start: {named}")
    with pytest.raises(ParamsError, match=said):
        check(folder)
