"""A new method is a copied folder: README's recipe is followed in a copy of the project, and nothing else is edited."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from commands.rewriting import rewrite
from etude.core.artifact import facts_of
from etude.core.files import read_json
from etude.project import params_files
from tests.guards import load_stages
from tests.shipped import dvc, replace_in, run_and_read
from tests.test_pipelines import make_project

pytestmark = pytest.mark.slow

OLD, NEW = "hypernetwork", "twelfth"
OWN = {  # its own params: another image set than in the copied files, and a short run
    "set": "concept",
    "name": "owl",
    "export": "all",
    "training.steps": 4,
    "training.checkpoint_every": 2,
    "preview.steps": 2,
}


def follow_the_recipe(project: Path) -> None:
    folder = project / "pipelines" / NEW
    shutil.copytree(project / "pipelines" / OLD, folder)
    replace_in(folder / "dvc.yaml", f"method: {OLD}", f"method: {NEW}")
    replace_in(folder / "params.yaml", f"schemas/{OLD}.schema.json", f"schemas/{NEW}.schema.json")
    replace_in(folder / "README.md", OLD, NEW)
    replace_in(folder / "README.md", OLD.capitalize(), NEW.capitalize())
    replace_in(folder / "method/__init__.py", f'"""{OLD.capitalize()}: ', f'"""{NEW.capitalize()}: ')
    rewrite(folder / "params.yaml", "params.yaml", OWN)
    rewrite(project / "params.yaml", "params.yaml", {"methods": [NEW]})
    (project / "docs").mkdir()
    for command in ("commands.schemas", "commands.reference"):  # make schemas
        run_and_read(project, command)


def traces(text: str) -> list[str]:
    """The lines with the old name as a whole word; it may be a part of format names and other programs' folders."""
    return [line for line in text.splitlines() if re.search(rf"\b{OLD}\b", line)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, root: Path, tiny_base: Path) -> Path:
    folder = make_project(tmp_path_factory.mktemp("twelfth") / "project", root, tiny_base)
    follow_the_recipe(folder)
    shutil.rmtree(folder / "pipelines" / OLD)  # so that every remaining reference to it fails
    (folder / "said.txt").write_text(dvc(folder, "repro"), encoding="utf-8")
    return folder


def test_the_graph_resolves_and_every_stage_has_run(project: Path) -> None:
    stages = {stage.name for stage in load_stages(project)}
    assert {f"pipelines/{NEW}:{name}" for name in ("build", "evaluate", "export", "grid")} <= stages
    said = (project / "said.txt").read_text(encoding="utf-8")
    for stage in ("build", "evaluate", "export", "grid"):
        assert f"Running stage 'pipelines/{NEW}/dvc.yaml:{stage}'" in said
    assert f"Running stage 'page@{NEW}'" in said
    assert "up to date" in dvc(project, "repro")


def test_all_of_it_goes_by_the_new_name_and_nothing_by_the_old_one(project: Path) -> None:
    for file in sorted((project / "artifacts" / NEW / "build").rglob("*.safetensors")):
        facts = facts_of(file)
        assert facts["method"] == NEW
        assert traces(json.dumps(facts)) == []
    assert [path for path in project.rglob(f"*{OLD}*") if "etude/formats" not in path.as_posix()] == [
        project / "schemas" / f"{OLD}.schema.json"
    ]
    written = [path for room in ("artifacts", "logs") for path in (project / room).rglob("*")]
    for path in (path for path in written if path.is_file()):
        assert traces(path.read_bytes().decode("latin-1")) == [], path
    assert traces((project / f"schemas/{NEW}.schema.json").read_text(encoding="utf-8")) == []
    assert traces((project / "said.txt").read_text(encoding="utf-8")) == []


def test_what_it_made_is_exported_converted_and_drawn(project: Path) -> None:
    files = read_json(project / "artifacts" / NEW / "export/export.json")["files"]
    assert {file["format"] for file in files} == {"hypernetwork_pt"}
    assert (project / "artifacts" / NEW / "grid/grid.png").stat().st_size > 1000
    said = run_and_read(project, "commands.convert", f"{NEW}@2", "--to", "hypernetwork_pt", "--out", "converted")
    said += run_and_read(
        project, "commands.sample", f"{NEW}:0.5", "--prompt", "[name]", "--seeds", "0", "--out", "one.png"
    )
    assert traces(said) == []
    assert len(list((project / "converted").glob("*.pt"))) == 1


def test_a_fault_in_its_params_is_told_by_its_own_file(project: Path) -> None:
    own = project / "pipelines" / NEW / "params.yaml"
    text = own.read_text(encoding="utf-8")
    try:
        own.write_text(text.replace("\nwidths: ", "\nwidhts: "), encoding="utf-8")
        said = run_and_read(project, "tasks.build", NEW, code=1)
        assert f"pipelines/{NEW}/params.yaml: " in said
        assert "unknown key `widhts`, did you mean `widths`?" in said
        own.write_text(text.replace("\nwidths: []", "\nwidths: [7]"), encoding="utf-8")
        fault = run_and_read(project, "tasks.build", NEW, code=1)
        assert f"pipelines/{NEW}/params.yaml: " in fault
        assert traces(said + fault) == []
    finally:
        own.write_text(text, encoding="utf-8")


def test_a_preset_says_that_it_has_no_values_for_it(project: Path) -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in params_files(project)}
    try:
        said = " ".join(run_and_read(project, "commands.preset", "sd15").split())
        assert f"has no values for pipelines/{NEW}/params.yaml: the file is unchanged" in said
        assert (project / "pipelines" / NEW / "params.yaml").read_text(encoding="utf-8") in texts.values()
    finally:
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
