"""The same graph on Dask and Ray, which are no part of the usual installation."""

from __future__ import annotations

import pickle
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from prefect.context import FlowRunContext

from etude.core.errors import InputError
from etude.watch.holders import lives
from flows.board import Board
from flows.plan import load
from flows.runners import Shared, attended, make
from flows.slots import StoppedError
from flows.stage import Site
from flows.work import Work
from tests.flows.conftest import Project, wait_until

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")


def test_an_unknown_runner_is_refused(project: Project) -> None:
    project.stages(one={})
    with pytest.raises(InputError, match="use threads, dask or ray"):
        make("spark", 2)
    assert "use threads, dask or ray" in project.flow("--dry", "--runner", "spark").communicate()[0]


def test_what_is_set_in_one_process_is_set_in_its_copies(tmp_path: Path) -> None:
    first = Shared(tmp_path / "stopping/one")
    copy = pickle.loads(pickle.dumps(first))
    assert not copy.is_set()
    assert not copy.wait(0)
    first.set()
    assert copy.is_set()
    assert copy.wait(0)
    other = Shared(tmp_path / "stopping/two")  # of a later run
    other.set()
    assert other.file.exists()


def test_a_copy_of_a_run_elsewhere_brings_stages_up_to_date_and_shows_nothing(project: Project, tmp_path: Path) -> None:
    project.stages(one={})
    (stage,) = stages = load(project.root)
    board = Board()
    board.begin(stages)
    work = Work(Site(project.root, 1), stages, board)
    work.stopping = Shared(tmp_path / "stopping")
    copy = pickle.loads(pickle.dumps(work))
    assert copy.do(stage, [], str) == "ran"
    assert project.runs() == ["one"]
    assert board.rows["one"].state == "waiting"


def test_a_task_that_begins_when_its_run_was_already_stopped_does_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.stages(one={})
    (stage,) = stages = load(project.root)
    work = Work(Site(project.root, 1), stages, Board())
    work.board.begin(stages)
    monkeypatch.setattr(FlowRunContext, "get", lambda: SimpleNamespace(task_runner="in other processes"))
    with pytest.raises(KeyboardInterrupt), attended(work):
        copy = pickle.loads(pickle.dumps(work))
        raise KeyboardInterrupt
    with pytest.raises(StoppedError):
        copy.do(stage, [], str)
    assert project.runs() == []


def test_what_tasks_do_in_other_processes_is_shown_here_by_their_locks_and_logs(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.stages(one={}, two={}, three={})
    stages = {stage.shown: stage for stage in load(project.root)}
    work = Work(Site(project.root, 1), list(stages.values()), Board())
    work.board.begin(stages.values())
    rows = work.board.rows
    for name in ("one", "two"):
        for path in (work.site.holder(stages[name]), work.site.log(stages[name])):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("of an earlier run\n")
    monkeypatch.setattr(FlowRunContext, "get", lambda: SimpleNamespace(task_runner="in other processes"))
    with attended(work):
        work.site.holder(stages["one"]).write_text("stage 12")
        work.site.holder(stages["two"]).write_text("flow 12")
        wait_until(lambda: (rows["one"].state, rows["two"].state) == ("running", "queued"))
        with work.site.log(stages["one"]).open("a") as log:
            log.write("step 3 of 4\n")
        wait_until(lambda: rows["one"].text == "step 3 of 4")
    assert (rows["two"].text, rows["three"].state) == ("", "waiting")


@pytest.mark.slow  # a cluster of Dask's or Ray's
@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_the_graph_on_a_cluster_ends_as_on_threads_and_stops_with_ctrl_c(
    kind: str, project: Project, prefect_server: str
) -> None:
    pytest.importorskip(f"prefect_{kind}")
    project.stages(
        first={},
        bad={"words": ["fail:7"]},
        after={"deps": ["out/bad"]},
        slow={"words": ["wait:go"], "deps": ["out/first"]},
    )
    flow = project.flow("--runner", kind, "--jobs", "2", PREFECT_API_URL=prefect_server)
    stage = project.pid("slow")
    flow.send_signal(signal.SIGINT)
    flow.communicate()
    assert flow.returncode == 130
    assert not lives(stage)

    (project.root / "go").touch()
    again = project.flow("--runner", kind, PREFECT_API_URL=prefect_server)
    text, _ = again.communicate()
    assert again.returncode == 1
    for line in ("first: up to date", "slow: ran in", "after: skipped", "bad ended with exit code 7. Its log"):
        assert line in text
    assert project.runs().count("first") == 1
    assert "up to date" in project.dvc("status", "slow")
