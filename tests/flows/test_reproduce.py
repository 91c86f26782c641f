"""A past revision run again elsewhere, and what comes of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from etude.core.errors import InputError
from flows.worktree import resolve, worktree
from tests.flows.conftest import Project
from tests.shipped import git

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")

MEASURE = """
import json, os, pathlib, yaml
rate = yaml.safe_load(open("params.yaml"))["rate"]
text = pathlib.Path("in.txt").read_text()
noise = float(os.environ.get("NOISE", 0))  # what a run may not repeat
pathlib.Path("out").mkdir(exist_ok=True)
pathlib.Path("out/metrics.json").write_text(json.dumps({"rate": rate, "length": len(text) + noise}))
"""


@pytest.fixture(scope="module")
def once_published(empty_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with an input that DVC tracks and two stages, run and tagged v1, to copy."""
    project = Project(Path(shutil.copytree(empty_project, tmp_path_factory.mktemp("published") / "project")))
    (project.root / "in.txt").write_text("input")
    (project.root / "params.yaml").write_text("rate: 1\n")
    (project.root / "measure.py").write_text(MEASURE)
    command = {"cmd": "python3 measure.py", "deps": ["in.txt"], "params": ["rate"], "outs": ["out/metrics.json"]}
    project.stages(measure=command, after={"deps": ["out/metrics.json"]})
    project.dvc("add", "--quiet", "in.txt")
    project.dvc("repro", "--quiet")
    git(project.root, "add", ".")
    git(project.root, "commit", "-qm", "run")
    git(project.root, "tag", "v1")
    return project.root


@pytest.fixture
def published(once_published: Path, tmp_path: Path) -> Project:
    """A repository with a run tagged v1."""
    return Project(Path(shutil.copytree(once_published, tmp_path / "project", symlinks=True)))


class Reproduced:
    """What a reproduction came to."""

    def __init__(self, project: Project, revision: str, **settings: Any) -> None:
        from flows.board import Board, use
        from flows.experiments import reproduce

        board = Board()
        use(board)
        self.state = reproduce(revision, str(project.root), return_state=True, **settings)
        self.message = self.state.message or ""
        self.rows = {row.stage.label: row.state for row in board.rows.values()}


@pytest.mark.usefixtures("prefect_server")
def test_a_revision_is_computed_again_elsewhere_and_is_identical(published: Project) -> None:
    (published.root / "params.yaml").write_text("rate: 5 # being edited\n")
    (published.root / "out/metrics.json").unlink()
    (published.root / "in.txt").write_text("other input")
    before = git(published.root, "status", "--short")
    done = Reproduced(published, "v1", force=True)
    assert done.rows == {"in.txt.dvc": "ran", "measure": "ran", "after": "ran"}
    assert done.message == "v1: 2 identical"
    assert done.state.is_completed()
    assert git(published.root, "status", "--short") == before
    assert git(published.root, "worktree", "list").count("\n") == 1
    assert published.runs() == ["after"]


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_an_edited_parameter_and_a_number_that_does_not_repeat_are_named(
    published: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOISE", "0.001")
    close = Reproduced(published, "v1", force=True)
    assert close.state.is_completed()
    assert (
        "within tolerance  measure  out/metrics.json: metrics.json: numbers differ by less than 0.001" in close.message
    )

    (published.root / "params.yaml").write_text("rate: 2\n")
    git(published.root, "commit", "-qam", "edit")
    edited = Reproduced(published, "HEAD")
    assert edited.state.is_failed()
    assert "differs  measure  out/metrics.json: params.yaml.rate 1 → 2; metrics.json: rate 1 → 2" in edited.message


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_stage_that_fails_is_not_called_identical(published: Project) -> None:
    published.stages(bad={"words": ["fail:1"], "deps": ["in.txt"]})
    git(published.root, "commit", "-qam", "a stage that fails")
    failed = Reproduced(published, "HEAD", force=True)
    assert failed.state.is_failed()
    assert "not made  bad" in failed.message
    assert "bad ended with exit code 1" in failed.message


@pytest.mark.parametrize("fine", [True, False])
def test_the_command_says_how_the_flow_ended_and_whether_all_is_the_same(
    fine: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import experiments, server
    from flows import reproduce as command
    from flows import worktree as trees

    state = SimpleNamespace(message="v1: 2 identical", is_completed=lambda: fine)
    monkeypatch.setattr(server, "connect", lambda _: lambda: "http://there")
    monkeypatch.setattr(trees, "resolve", lambda *_: "commit")
    monkeypatch.setattr(experiments, "reproduce", lambda *_, **__: state)
    monkeypatch.setattr("flows.reproduce.end_of", lambda flow: flow())
    assert command.reproduce(tmp_path, "v1", [], 1, [], False, 1e-3) == ("v1: 2 identical", fine)


def test_what_a_killed_reproduction_left_is_cleared_by_the_next(published: Project) -> None:
    left = published.root / ".scratch/worktrees/0"
    git(published.root, "worktree", "add", "--quiet", "--detach", str(left), "v1")
    (left / "in.txt").write_text("left over")
    with worktree(published.root, "v1") as (tree, lock):
        assert tree == left
        orphan = subprocess.Popen(["sleep", "100"], pass_fds=[lock])
        assert (tree / "in.txt").read_text() == "input"
    assert not left.exists()
    with worktree(published.root, "v1") as (tree, _):
        assert tree.name == "1"  # a process of the first run still lives in the other
    orphan.kill()
    orphan.wait()


def test_an_input_that_is_nowhere_stops_with_its_name(published: Project) -> None:
    shutil.rmtree(published.root / ".dvc/cache")
    with (
        pytest.raises(InputError, match=r"in\.txt\.dvc: the cache .*targets:; in\.txt; ") as caught,
        worktree(published.root, "v1"),
    ):
        pass
    assert "https:" not in str(caught.value)
    assert git(published.root, "worktree", "list").count("\n") == 1


def test_an_unknown_revision_is_refused(published: Project) -> None:
    assert len(resolve(published.root, "v1")) == 40
    with pytest.raises(InputError, match="no commit, tag, branch or experiment"):
        resolve(published.root, "v2")
