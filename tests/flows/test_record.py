"""What DVC writes is held against what the stage saw: an edit that only a flow can notice leaves no record."""

from __future__ import annotations

from pathlib import Path
from threading import Event

import pytest

from etude.core.errors import StaleError
from flows.plan import Stage, load
from flows.record import Record
from flows.stage import Site, StageError, run
from tests.etude.watch.watched import ROOT, Project, copy, make_project, set_param

# DVC 3.67 calls what pygtrie 2.5 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")

LATE = {  # after the stage's last look, before DVC's
    "param": ("sed -i 's/rank: 4/rank: 5/' in/one/own.yaml", r"in/one/own\.yaml: rank \(4 → 5\)"),
    "picture": ("echo other > in/one/data/a.png", r"in/one/data/a\.png"),
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("recorded") / "project")


@pytest.fixture
def project(original: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    project = copy(original, tmp_path)
    project.go("one")
    return project


def only(project: Project) -> tuple[Stage, Site]:
    (stage,) = load(project.root)
    return stage, Site(project.root, jobs=1)


def quiet(kind: str, text: str) -> None:
    pass


@pytest.mark.parametrize("kind", ["param", pytest.param("picture", marks=pytest.mark.slow)])
def test_what_is_edited_after_a_stages_last_look_is_not_recorded(project: Project, kind: str) -> None:
    edit, told = LATE[kind]
    project.stages(one={})
    assert run(*only(project), quiet, Event()) == "ran"
    before, kept = project.recorded(), project.run_cache()
    project.stages(one={"cmd": ["python3 -m steps.work one", edit]})
    with pytest.raises(StageError, match=rf"^one: {told}: changed while this stage ran. Next: run `dvc repro` again"):
        run(*only(project), quiet, Event())
    assert project.recorded() == before
    assert project.run_cache() == kept
    assert load(project.root)[0].why


def test_what_was_there_only_while_dvc_looked_is_not_recorded(project: Project) -> None:
    project.stages(one={"cmd": ["python3 -m steps.work one", LATE["picture"][0]]})
    picture = project.root / "in/one/data/a.png"
    content = picture.read_bytes()
    record = Record(project.root, "one")
    record.begin()
    assert project.dvc("repro").wait() == 0
    picture.write_bytes(content)
    with pytest.raises(StaleError, match=r"^in/one/data: changed"):
        record.check()
    assert (project.recorded(), project.run_cache()) == ({}, [])


def test_the_false_record_of_a_run_that_outlived_its_flow_is_taken_back(project: Project) -> None:
    project.stages(one={"cmd": ["python3 -m steps.work one", LATE["param"][0]]})
    assert project.dvc("repro").wait() == 0
    assert project.recorded()["one"]["params"]["in/one/own.yaml"] == {"rank": 5}
    with pytest.raises(StaleError, match="rank"):
        Record(project.root, "one").check()  # by the flow that waited for it
    assert (project.recorded(), project.run_cache()) == ({}, [])
    assert project.dvc("repro").wait() == 0, project.said()  # of the same deps and params: now it saw them
    assert project.recorded()["one"]["params"]["in/one/own.yaml"] == {"rank": 5}


def test_an_edit_after_dvc_has_written_does_not_take_a_true_record_back(project: Project) -> None:
    project.stages(one={})
    record = Record(project.root, "one")
    assert project.dvc("repro").wait() == 0
    set_param(project.root / "in/one/own.yaml", rank=5)
    record.check()
    assert project.recorded()["one"]["params"]["in/one/own.yaml"] == {"rank": 4}
