"""The flow: DVC's graph as Prefect tasks, against a real server."""

from __future__ import annotations

import importlib
import json
from typing import Any
from uuid import UUID

import pytest

from flows.board import Board, use
from flows.plan import Stage
from tests.flows.conftest import Project

pytestmark = [
    # DVC 3.67 calls what pygtrie 2.5 deprecates.
    pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning"),
    pytest.mark.usefixtures("prefect_server"),
]


class Seen:
    """What one run of the flow came to."""

    def __init__(self, project: Project, targets: tuple[str, ...] = (), **settings: Any) -> None:
        from flows.graph import repro

        self.board = Board()
        use(self.board)
        self.state = repro(str(project.root), list(targets), return_state=True, **{"jobs": 4, **settings})
        self.rows = {row.stage.label: row.state for row in self.board.rows.values()}


def task_states(flow_run: UUID | None) -> dict[str, str]:
    """Name and state of the task runs of a flow run, as the server has them."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    assert flow_run
    with get_client(sync_client=True) as client:
        found = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run])))
    return {run.name: run.state_name for run in found}


def test_the_server_of_prefect_can_be_imported_with_the_installed_fastapi() -> None:
    assert importlib.import_module("prefect.server.api.server").create_app


def test_a_cold_run_runs_everything_and_dvc_agrees_and_the_next_run_does_nothing(project: Project) -> None:
    project.stages(first={}, left={"deps": ["out/first"]}, right={"deps": ["out/first"]})
    project.stages("pipelines/toy/dvc.yaml", build={"deps": ["out/left", "out/right"]})
    cold = Seen(project, ("toy",))
    assert cold.state.is_completed()
    assert cold.state.message == "4 ran"
    states = task_states(cold.state.state_details.flow_run_id)
    assert states == dict.fromkeys(("first", "left", "right", "toy:build"), "Ran")
    assert "up to date" in project.dvc("status")
    assert "Data and pipelines are up to date." in project.dvc("repro", "-P")

    logs = {path: path.stat().st_mtime_ns for path in (project.root / "logs").rglob("*.log")}
    again = Seen(project, ("toy",))
    assert again.state.message == "4 up to date"
    assert set(task_states(again.state.state_details.flow_run_id).values()) == {"UpToDate"}
    assert {path: path.stat().st_mtime_ns for path in logs} == logs
    assert sorted(project.runs()) == ["build", "first", "left", "right"]


def test_a_failed_stage_stops_only_what_depends_on_it(project: Project) -> None:
    project.stages(
        bad={"words": ["fail:7"]},
        after={"deps": ["out/bad"]},
        last={"deps": ["out/after", "out/fine"]},
        fine={},
    )
    failed = Seen(project)
    assert failed.rows == {"bad": "failed", "after": "skipped", "last": "skipped", "fine": "ran"}
    assert failed.state.is_failed()
    assert failed.state.message
    assert failed.state.message.startswith("1 of 4 stages failed: bad, 2 that depend on it not begun.")
    assert "bad ended with exit code 7. Its log, logs/bad.log, ends with:" in failed.state.message
    assert "something is wrong with bad" in failed.state.message

    (project.root / "fixed").touch()
    fixed = Seen(project)
    assert fixed.rows == {"bad": "ran", "after": "ran", "last": "ran", "fine": "up to date"}
    assert project.runs().count("fine") == 1


def test_two_independent_stages_run_at_the_same_time(project: Project) -> None:
    # Each ends only once the other has begun.
    project.stages(left={"words": ["wait:right.pid"]}, right={"words": ["wait:left.pid"]})
    assert Seen(project, jobs=2).state.is_completed()


def test_stages_that_need_the_one_gpu_take_turns_and_others_do_not_wait(project: Project) -> None:
    gpu = {"words": ["alone"], "meta": {"flow": {"resource": "gpu"}}}
    project.stages(one=gpu, two=gpu, three={})
    assert Seen(project, gpus=["5"]).state.is_completed()
    assert (project.root / "devices.txt").read_text().split() == ["5", "5"]


def test_a_stage_is_tried_again_as_often_as_it_says(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.graph.RETRY_AFTER", 0.0)
    project.stages(only={"words": ["fail:1"], "meta": {"flow": {"retries": 1}}}, after={"deps": ["out/only"]})
    told = Board.state

    def repair(board: Board, stage: Stage, state: str, seconds: float | None = None) -> None:
        told(board, stage, state, seconds)
        if state == "failed":
            (project.root / "fixed").touch()

    monkeypatch.setattr(Board, "state", repair)
    assert Seen(project).rows == {"only": "ran", "after": "ran"}
    assert project.runs() == ["only", "only", "after"]


def test_all_that_workers_made_is_brought_here_also_what_only_a_stage_before_it_changed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.root / "in.txt").write_text("once")
    project.stages(one={"deps": ["in.txt"]}, two={"deps": ["out/one"]}, other={})
    project.dvc("repro", "--quiet")
    (project.root / "in.txt").write_text("again")
    brought: list[str] = []
    monkeypatch.setattr("flows.machines.carrier", lambda *_: lambda *_: "ran")
    monkeypatch.setattr("flows.machines.collect", lambda _, names: brought.extend(names))
    assert Seen(project, pools=True).rows == {"one": "ran", "two": "ran", "other": "up to date"}
    assert brought == ["one", "two"]


SHOW = """
import json, pathlib
from PIL import Image
out = pathlib.Path("out/shown")
out.mkdir(parents=True)
Image.effect_noise((1600, 1200), 90).save(out / "grid.png")
(out / "metrics.json").write_text(json.dumps({"clip": {"text": 0.25}}))
(out / "index.html").write_text("")
"""


def test_pictures_numbers_and_pages_are_shown_in_prefect(project: Project) -> None:
    from prefect.client.orchestration import get_client

    (project.root / "show.py").write_text(SHOW)
    project.stages(shown={"cmd": "python3 show.py"})
    assert Seen(project).state.is_completed()

    with get_client(sync_client=True) as client:
        shown = {artifact.key: artifact.data for artifact in client.read_latest_artifacts()}
    picture = shown["shown-grid"]
    assert picture.startswith("data:image/webp;base64,")
    assert 1000 < len(picture) < 300_000
    assert json.loads(shown["shown-metrics"]) == [{"metric": "clip.text", "value": 0.25}]
    assert f"[out/shown/index.html]({(project.root / 'out/shown/index.html').as_uri()})" in shown["shown-page"]
    assert "| shown | never run |" in shown["plan"]
    assert [row["state"] for row in json.loads(shown["outcome"])] == ["ran"]


@pytest.mark.slow
def test_forced_stages_run_again(project: Project) -> None:
    project.stages(first={}, second={"deps": ["out/first"]})
    for _ in range(2):
        assert Seen(project, force=True).state.message == "2 ran"
    assert project.runs() == ["first", "second"] * 2
