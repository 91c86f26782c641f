"""The whole graph as a user runs it: the repository's own stages, run by the real DVC on a tiny base."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from commands.rewriting import rewrite
from etude.core.files import read_json
from etude.core.params import read_yaml
from etude.core.tensors import read_tensors
from tests.classifying import write_classifier
from tests.shipped import copy_project, dvc, environment, git

pytestmark = pytest.mark.slow

QUICK = {  # as small as the stages allow
    "base": "models/tiny",
    "caption.captioners": {"clip": "models/tiny/clip"},
    "caption.words.file": "models/tiny/words.txt",
    "evaluate.clip": "models/tiny/clip",
    "evaluate.classifier": "models/tiny/classifier",
    "evaluate.classify": True,
    "prepare.resolution": 64,
    "sampling.steps": 2,
    "prompts.concept": ["[name]"],
    "evaluate.seeds": [0, 1],
    "evaluate.validation.timesteps": [500],
    "grid.z.values": "0-1",
    "grid.cell": 64,
}
SHORT = {"training.steps": 30, "training.checkpoint_every": 15, "preview.seeds": []}
LORA, PARAMS = "pipelines/lora/dvc.yaml", "pipelines/lora/params.yaml"


def ran(said: str) -> set[str]:
    return set(re.findall(r"^Running stage '(.+)':", said, re.MULTILINE))


def make_project(folder: Path, root: Path, tiny_base: Path) -> Path:
    """A git and DVC repository like a fresh clone, with a tiny base and short runs."""
    copy_project(folder)
    shutil.copytree(root / "data/samples", folder / "data/samples", ignore=shutil.ignore_patterns("style-heldout"))
    for number, picture in enumerate(sorted((folder / "data/samples/style").glob("*.png"))):
        if number > 2:  # three are enough here
            picture.unlink()
            picture.with_suffix(".txt").unlink(missing_ok=True)
    shutil.copytree(tiny_base, folder / "models/tiny")
    write_classifier(folder / "models/tiny/classifier")
    (folder / "models/tiny/words.txt").write_text("cat\ndog\n", encoding="utf-8")
    rewrite(folder / "params.yaml", "params.yaml", QUICK)
    for method in ("lora", "textual_inversion"):
        rewrite(folder / "pipelines" / method / "params.yaml", "params.yaml", SHORT)
    word_alone = {"templates": ["[name]"], "reads": "prepared"}
    rewrite(folder / "pipelines/textual_inversion/params.yaml", "params.yaml", word_alone)
    git(folder, "init", "-q")
    dvc(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "start")
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, root: Path, tiny_base: Path) -> Path:
    """A project whose whole graph has run."""
    folder = make_project(tmp_path_factory.mktemp("graph") / "project", root, tiny_base)
    dvc(folder, "repro")
    return folder


def hashes(project: Path, lock: str) -> dict[str, str]:
    stages = read_yaml(project / lock)["stages"].values()
    return {out["path"]: out["md5"] for stage in stages for out in stage["outs"]}


def test_the_graph_ends_with_a_report_and_has_then_nothing_to_do(project: Path) -> None:
    page = (project / "artifacts/report/index.html").read_text(encoding="utf-8")
    assert "lora" in page
    assert "textual_inversion" in page
    assert "Is it similar to the held-out pictures?" in page
    for method in ("lora", "textual_inversion"):
        assert (project / "artifacts" / method / "grid/grid.png").stat().st_size > 1000
        assert len(list((project / "artifacts" / method / "build/checkpoints").iterdir())) == 2
    assert "up to date" in dvc(project, "repro")
    assert "image_similarity" in dvc(project, "metrics", "show")
    assert "loss" in dvc(project, "plots", "show", "--json")


def test_the_graph_makes_a_page_of_each_set_and_every_link_of_a_page_leads_to_a_file(project: Path) -> None:
    pages = [*project.glob("artifacts/report/*.html"), *project.glob("artifacts/pages/*/*.html")]
    pages += project.glob("artifacts/sets/*/*.html")
    assert {page.parent.relative_to(project).as_posix() for page in pages} >= {
        *("artifacts/report", "artifacts/pages/lora", "artifacts/sets/concept", "artifacts/sets/style"),
    }
    for page in pages:
        for link in re.findall(r'href="([^":]*)"', page.read_text(encoding="utf-8")):
            assert (page.parent / link.partition("#")[0]).is_file(), (page, link)


def test_a_changed_rank_reruns_what_depends_on_it_and_nothing_else(project: Path) -> None:
    said = dvc(project, "exp", "run", "-S", "pipelines/lora/params.yaml:rank=2")
    build = {f"{LORA}:{stage}" for stage in ("build", "export", "evaluate", "grid")}
    assert ran(said) == build | {"page@lora", "report"}


@pytest.fixture
def as_before(project: Path) -> Iterator[None]:
    """Restore the params files that `dvc exp run` changes."""
    texts = {project / name: (project / name).read_text(encoding="utf-8") for name in ("params.yaml", PARAMS)}
    yield
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")


@pytest.mark.usefixtures("as_before")
def test_other_numbers_with_the_same_best_checkpoint_export_nothing_again(project: Path) -> None:
    said = dvc(project, "exp", "run", "-S", "evaluate.validation.seed=7", f"{LORA}:export")
    assert f"{LORA}:evaluate" in ran(said)
    assert [name for name in ran(said) if name.endswith((":build", ":export"))] == []


@pytest.mark.usefixtures("as_before")
def test_another_best_checkpoint_is_exported_and_nothing_is_built_for_it(project: Path) -> None:
    best = read_json(project / "artifacts/lora/best.json")["checkpoint"]
    numbers = {row["checkpoint"]: float(row["diversity"]) for row in checkpoints(project)}
    other = next(name for name in ("000015", "000030") if name != best)
    direction = "max" if numbers[other] > numbers[best] else "min"
    rule = ["-S", "evaluate.best.metric=diversity", "-S", f"evaluate.best.direction={direction}"]
    said = dvc(project, "exp", "run", *rule, "-S", f"{PARAMS}:export=all", f"{LORA}:export")
    assert read_json(project / "artifacts/lora/best.json")["checkpoint"] == other
    assert f"{LORA}:export" in ran(said)
    assert f"{LORA}:build" not in ran(said)
    exported = read_tensors(project / "artifacts/lora/export/owl.safetensors")[0]
    for step in numbers.keys() - {"base"}:
        alone = read_tensors(project / f"artifacts/lora/export/checkpoints/{step}/owl-{step}.safetensors")[0]
        same = all(torch.equal(exported[name], tensor) for name, tensor in alone.items())
        assert same == (step == other)


def checkpoints(project: Path) -> list[dict[str, str]]:
    with (project / "artifacts/lora/evaluation/checkpoints.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_an_edited_caption_rebuilds_what_reads_captions_and_nothing_else(project: Path) -> None:
    caption = next((project / "data/samples/concept").glob("*.txt"))
    text = caption.read_text(encoding="utf-8")
    caption.write_text(f"{text} seen from afar", encoding="utf-8")
    said = dvc(project, "repro", f"{LORA}:build", "pipelines/textual_inversion/dvc.yaml:build")
    caption.write_text(text, encoding="utf-8")
    assert re.search(r"\b1 encoded", said)
    assert ran(said) == {"caption@concept", "encode@concept", "prepare@concept", f"{LORA}:build"}
    dvc(project, "repro", f"{LORA}:build", "pipelines/textual_inversion/dvc.yaml:build")


def test_a_clone_that_is_killed_on_the_way_ends_with_the_same_hashes(
    project: Path, tmp_path: Path, root: Path, tiny_base: Path
) -> None:
    clone = make_project(tmp_path / "clone", root, tiny_base)
    rewrite(clone / "params.yaml", "params.yaml", {"methods": ["lora"]})
    dvc(clone, "repro", "encode@concept")
    command = [sys.executable, "-m", "dvc", "repro", f"{LORA}:build"]
    build = subprocess.Popen(command, cwd=clone, env=environment(), start_new_session=True)
    while not list(clone.glob(".scratch/lora-*/state.pt")):
        assert build.poll() is None
        time.sleep(0.02)
    os.killpg(build.pid, signal.SIGKILL)
    build.wait()
    said = dvc(clone, "repro", f"{LORA}:grid", f"{LORA}:export")
    assert re.search(r"resumed at step [1-9]\d* of 30", said)
    assert not (clone / "artifacts/textual_inversion").exists()
    dvc(project, "exp", "run", "-S", "pipelines/lora/params.yaml:rank=16", f"{LORA}:grid", f"{LORA}:export")
    assert hashes(clone, "pipelines/lora/dvc.lock") == hashes(project, "pipelines/lora/dvc.lock")


def test_a_typo_stops_before_torch_is_imported(project: Path, tmp_path: Path) -> None:
    poison = tmp_path / "torch"
    poison.mkdir()
    (poison / "__init__.py").write_text("raise SystemExit('torch was imported')")
    params = project / "pipelines/lora/params.yaml"
    text = params.read_text()
    params.write_text(text.replace("\nrank: ", "\nrnk: "))
    try:
        for task in (["tasks.build", "lora"], ["tasks.prepare", "concept"]):
            done = subprocess.run(
                [sys.executable, "-m", *task],
                cwd=project,
                env={**environment(), "PYTHONPATH": str(tmp_path)},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 1
            assert "pipelines/lora/params.yaml" in done.stderr
            assert "unknown key `rnk`, did you mean `rank`?" in done.stderr
            assert "torch was imported" not in done.stderr
    finally:
        params.write_text(text)
