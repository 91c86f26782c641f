"""What the flow asks of Prefect for each stage, and what it makes of the answers: without a server."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from httpx import ConnectError

from flows import graph
from flows.board import Board, use
from flows.plan import Stage
from flows.server import PAGES
from flows.stage import Site, StageError
from flows.work import Work
from tests.flows.conftest import Calls, Clock

STAGES = [
    Stage("x.yaml:first", "first", why=("edited", "forced"), recipe="one", retries=3),
    Stage("x.yaml:twin", "twin", recipe="one"),
    Stage("x.yaml:last", "last", ("x.yaml:first", "x.yaml:twin"), recipe="two", title="trial"),
]


def make(root: Path, stages: Sequence[Stage] = STAGES) -> Work:
    work = Work(Site(root, 2), stages, Board())
    work.board.begin(stages)
    return work


class Future:
    """A task that has ended in this state; `waited` says whether somebody waited for it."""

    def __init__(self, kind: str, answer: Any = None, message: str = "") -> None:
        self.answer, self.waited = answer, False
        kinds = {f"is_{name}": lambda name=name: name == kind for name in ("completed", "failed", "crashed")}
        self.state = SimpleNamespace(message=message, **kinds)

    def wait(self) -> None:
        self.waited = True

    def result(self, raise_on_failure: bool = True) -> Any:
        if raise_on_failure and isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What Prefect is given for each stage."""
    given: list[dict[str, Any]] = []

    def with_options(**options: Any) -> Any:
        def submit(stage: Stage, work: Work, before: list[str], wait_for: list[str]) -> str:
            given.append({**options, "stage": stage, "work": work, "before": before, "wait_for": wait_for})
            return f"future of {stage.name}"

        return SimpleNamespace(submit=submit)

    monkeypatch.setattr(graph, "bring_up_to_date", SimpleNamespace(with_options=with_options))
    return given


def test_each_stage_is_a_task_with_its_name_its_tries_and_what_it_waits_for(
    tmp_path: Path, submitted: list[dict[str, Any]]
) -> None:
    work = make(tmp_path)
    futures = graph.submit(work, {})
    assert futures == {stage.name: f"future of {stage.name}" for stage in STAGES}
    first, twin, last = submitted
    assert [one["name"] for one in submitted] == ["first", "twin", "trial last"]
    assert [one["task_run_name"] for one in submitted] == ["first", "twin", "trial last"]
    assert [one["retries"] for one in submitted] == [3, 0, 0]
    assert {one["retry_delay_seconds"] for one in submitted} == {graph.RETRY_AFTER}
    assert [one["stage"] for one in submitted] == STAGES
    assert all(one["work"] is work for one in submitted)
    assert last["before"] == [futures["x.yaml:first"], futures["x.yaml:twin"]]
    assert first["before"] == first["wait_for"] == last["wait_for"] == []
    assert twin["wait_for"] == [futures["x.yaml:first"]]


def test_a_stopped_run_tries_no_stage_again(tmp_path: Path, submitted: list[dict[str, Any]]) -> None:
    work = make(tmp_path)
    graph.submit(work, {})
    again = submitted[0]["retry_condition_fn"]
    assert again("task", "run", "state") is True
    work.stopping.set()
    assert again("task", "run", "state") is False


def test_stages_of_one_recipe_wait_for_the_first_of_all_runs(tmp_path: Path, submitted: list[dict[str, Any]]) -> None:
    same = {"two": "elsewhere"}
    graph.submit(make(tmp_path), same)  # type: ignore[arg-type]
    assert submitted[2]["wait_for"] == ["elsewhere"]
    assert same == {"one": "future of x.yaml:first", "two": "elsewhere"}


def test_each_task_that_is_over_is_noted_with_its_outcome_or_its_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "as_completed", lambda futures: reversed(futures))
    stages = [Stage(name, f"the {name}") for name in ("made", "own", "other", "silent", "crashed", "never")]
    futures = {
        "made": Future("completed", "ran"),
        "own": Future("failed", StageError("own ended with exit code 3")),
        "other": Future("failed", ValueError("no such key")),
        "silent": Future("failed", ValueError()),
        "crashed": Future("crashed", None, "the task crashed"),
        "never": Future("pending"),
    }
    work = make(tmp_path, stages)
    graph.settle(work, futures)  # type: ignore[arg-type]
    assert all(future.waited for future in futures.values())
    assert work.outcomes == {"made": "ran"}
    assert work.faults == {
        "own": "own ended with exit code 3",
        "other": "the other: no such key",
        "silent": "the silent: ValueError",
        "crashed": "the crashed: the task crashed",
    }
    assert [row.state for row in work.board.rows.values()] == ["ran", *["failed"] * 4, "skipped"]


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(graph, "get_run_logger", lambda: logging.getLogger("stage"))
    caplog.set_level(logging.INFO, "stage")
    return caplog


@pytest.mark.parametrize(
    ("outcome", "name", "shown"),
    [
        ("ran", "Ran", True),
        ("restored", "Restored", True),
        ("adopted", "Adopted", True),
        ("unchanged", "Unchanged", False),
        ("up to date", "UpToDate", False),
    ],
)
def test_prefect_is_given_the_outcome_the_reason_and_what_was_made(
    outcome: str,
    name: str,
    shown: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    logged: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(PAGES, "http://here")
    published = Calls()
    monkeypatch.setattr(graph.artifacts, "publish", published)

    def do(stage: Stage, before: list[str], log: Callable[[str], None]) -> str:
        log(f"after {before}")
        return outcome

    work = SimpleNamespace(do=do, site=Site(tmp_path, 1))
    state = graph.bring_up_to_date.fn(STAGES[0], work, ["ran"])
    assert (state.name, state.message, state.data) == (name, "edited; forced", outcome)
    assert state.is_completed()
    assert logged.messages == ["after ['ran']"]
    assert published == ([(tmp_path, STAGES[0], "http://here")] if shown else [])
    published.clear()
    state = graph.bring_up_to_date.fn(STAGES[2], work, [])  # of a worktree, whose pages are soon gone
    assert state.message is None
    assert published == ([(tmp_path, STAGES[2], None)] if shown else [])


@pytest.mark.parametrize("error", [OSError("gone"), ValueError("no JSON"), ConnectError("")])
def test_what_cannot_be_shown_fails_no_stage(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    def publish(*_: object) -> None:
        raise error

    monkeypatch.setattr(graph.artifacts, "publish", publish)
    work = SimpleNamespace(do=lambda *_: "ran", site=Site(tmp_path, 1))
    assert graph.bring_up_to_date.fn(STAGES[0], work, []).name == "Ran"
    assert logged.messages == [
        f"{STAGES[0].label}: its outputs are missing on Prefect's pages ({str(error) or 'ConnectError'})"
    ]


@pytest.fixture
def flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Calls]]:
    """The flow `repro` with stages that are carried out in no time; what it calls."""
    called = {name: Calls(STAGES if name == "load" else None) for name in ("load", "plan", "outcome", "collect")}
    called["carrier"] = Calls("to workers")
    monkeypatch.setattr(graph.plan, "load", called["load"])
    monkeypatch.setattr(graph.artifacts, "publish_plan", called["plan"])
    monkeypatch.setattr(graph.artifacts, "publish_outcome", called["outcome"])
    monkeypatch.setattr(graph.machines, "collect", called["collect"])
    monkeypatch.setattr(graph.machines, "carrier", called["carrier"])
    works: list[Work] = []

    def carry_out(work: Work) -> None:
        works.append(work)
        called["works"] = works  # type: ignore[assignment]
        work.board.begin(work.stages)
        for stage in work.stages[:-1]:
            work.note(stage, outcome="ran" if stage.why else "up to date")

    monkeypatch.setattr(graph, "carry_out", carry_out)
    board = Board()
    use(board)
    yield called
    assert all(work.board is board for work in works)


def test_the_flow_shows_its_plan_and_its_end_and_fails_where_a_stage_is_not_done(
    tmp_path: Path, flow: dict[str, Calls]
) -> None:
    state = graph.repro.fn(str(tmp_path), ["last"], 3, ["5"], True)
    assert state.is_failed()
    assert state.message == "1 of 3 stages not begun"
    (work,) = flow["works"]
    assert (work.site.jobs, work.site.gpus, work.site.force, work.carry) == (3, ["5"], True, graph.run)
    assert flow["load"] == [(tmp_path, ["last"], {"force": True})]
    todo = {STAGES[0]: ("edited", "forced"), STAGES[2]: ("after first",)}
    assert flow["plan"] == [(todo, 3)]
    rows = [("first", "ran", None), ("twin", "up to date", None), ("trial last", "waiting", None)]
    assert flow["outcome"] == [(rows,)]
    assert flow["carrier"] == flow["collect"] == []


def test_a_flow_with_nothing_to_do_shows_neither_plan_nor_end(tmp_path: Path, flow: dict[str, Calls]) -> None:
    flow["load"].result = [Stage("a", "a"), Stage("b", "b", ("a",))]
    graph.repro.fn(tmp_path)
    (work,) = flow["works"]
    assert (work.site.jobs, list(work.site.gpus), work.site.force) == (1, [], False)
    assert flow["load"] == [(tmp_path.resolve(), (), {"force": False})]
    assert flow["plan"] == flow["outcome"] == []


def test_with_pools_workers_carry_stages_out_and_what_they_made_is_collected(
    tmp_path: Path, flow: dict[str, Calls]
) -> None:
    graph.repro.fn(tmp_path, pools=True)
    assert flow["works"][0].carry == "to workers"
    assert flow["carrier"] == [(tmp_path, STAGES)]
    assert flow["collect"] == [(tmp_path, ["x.yaml:first"])]  # the last one is not done, the twin was up to date


def test_a_work_is_shown_and_watched_while_its_stages_are_handed_over_and_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled = Calls()
    monkeypatch.setattr(graph, "submit", lambda work, same: {"futures of": work, "same": same})
    monkeypatch.setattr(graph, "settle", settled)
    work = Work(Site(tmp_path, 1), STAGES, Board())
    graph.carry_out(work)
    assert settled == [(work, {"futures of": work, "same": {}})]
    assert list(work.board.rows) == ["first", "twin", "trial last"]


def test_an_error_stops_every_run_and_waits_two_graces_for_what_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, ended = Clock(), Calls()
    monkeypatch.setattr(graph, "time", clock)
    works = [SimpleNamespace(stages=[stage], busy={"a"}, stopping=Event()) for stage in STAGES[:2]]
    board = Board()
    monkeypatch.setattr(board, "end", ended)
    with pytest.raises(KeyboardInterrupt), graph.shown(board, works):  # type: ignore[arg-type]
        raise KeyboardInterrupt
    assert all(work.stopping.is_set() for work in works)
    assert 2 * graph.GRACE <= clock.now < 2 * graph.GRACE + 2 * graph.POLL
    assert len(ended) == 1
    assert list(board.rows) == ["first", "twin"]


def test_nothing_is_waited_for_where_nothing_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(graph, "time", clock)
    works = [SimpleNamespace(stages=[], busy=set(), stopping=Event())]
    with pytest.raises(ValueError, match="wrong"), graph.shown(Board(), works):  # type: ignore[arg-type]
        raise ValueError("wrong")
    assert clock.now == 0
    with graph.shown(Board(), works := [SimpleNamespace(stages=[], busy={"a"}, stopping=Event())]):  # type: ignore[arg-type]
        pass
    assert not works[0].stopping.is_set()
