"""What the tasks of one run share: how it is stopped, and how long its stages took."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from threading import Event, Thread

import pytest

from flows import durations
from flows.board import Board
from flows.plan import Stage
from flows.slots import StoppedError
from flows.stage import Site, StageError, Tell
from flows.work import Clock, Work
from tests.flows.conftest import Calls
from tests.flows.conftest import Clock as Time


def test_nothing_is_at_work_any_more_when_a_stopped_run_is_left(tmp_path: Path) -> None:
    from flows.graph import shown

    begun, ended = Event(), Event()

    def carry(stage: Stage, site: Site, tell: Tell, stopping: Event, urgency: float) -> str:
        begun.set()
        stopping.wait()
        time.sleep(0.5)
        ended.set()
        raise StoppedError

    def do(stage: Stage) -> None:
        with pytest.raises(StoppedError):
            work.do(stage, [], str)

    first, late = (Stage(name, name, why=("never run",)) for name in ("first", "late"))
    work = Work(Site(tmp_path, 2), [first, late], Board(), carry)
    thread = Thread(target=do, args=[first])
    with pytest.raises(KeyboardInterrupt), shown(work.board, [work]):
        thread.start()
        begun.wait()
        raise KeyboardInterrupt
    assert ended.is_set()
    begun.clear()
    do(late)
    assert not begun.is_set()
    thread.join()


def test_a_stage_takes_as_long_as_it_runs_however_often_it_is_told_that_it_does(tmp_path: Path) -> None:
    def carry(stage: Stage, site: Site, tell: Tell, stopping: Event, urgency: float) -> str:
        tell("state", "queued")
        time.sleep(0.4)
        for _ in range(4):
            tell("state", "running")
            time.sleep(0.2)
        if stage.name == "measured":
            tell("seconds", "34.2")
        return "ran"

    once, measured = (Stage(name, name, why=("never run",)) for name in ("once", "measured"))
    work = Work(Site(tmp_path, 2), [once, measured], Board(), carry)
    work.board.begin(work.stages)
    for stage in (once, measured):
        work.do(stage, [], str)
    assert durations.recall(tmp_path, measured) == 34.2
    assert (durations.recall(tmp_path, once) or 0) >= 0.8


GRAPH = [
    Stage("a.yaml:a", "a", why=("edited",), retries=1),
    Stage("b.yaml:b", "b", ("a.yaml:a",)),
    Stage("c.yaml:c", "c", ("b.yaml:b",)),
    Stage("d.yaml:d", "d"),
]


def begun(root: Path, carry: object, stages: list[Stage] = GRAPH) -> Work:
    work = Work(Site(root, 2), stages, Board(), carry)  # type: ignore[arg-type]
    work.board.begin(stages)
    return work


def states(work: Work) -> list[str]:
    return [row.state for row in work.board.rows.values()]


def test_only_a_stage_of_which_nothing_can_have_changed_is_not_carried_out(tmp_path: Path) -> None:
    carry = Calls("unchanged")
    work = begun(tmp_path, carry)
    edited, after, *_ = GRAPH
    assert work.do(after, ["up to date", "up to date"], str) == "up to date"
    assert work.do(after, [], str) == "up to date"
    assert carry == []
    assert work.do(after, ["up to date", "unchanged"], str) == "unchanged"
    assert work.do(edited, ["up to date"], str) == "unchanged"
    assert [stage for stage, *_ in carry] == [after, edited]
    assert states(work) == ["unchanged", "up to date", "waiting", "waiting"]


def test_a_stage_is_carried_out_with_what_its_run_shares_and_in_the_order_of_its_urgency(tmp_path: Path) -> None:
    durations.keep(tmp_path, GRAPH[1], 30.0)
    carry = Calls("restored")
    work = begun(tmp_path, carry)
    work.do(GRAPH[0], [], str)
    ((stage, site, _, stopping, urgency),) = carry
    assert (stage, site, stopping) == (GRAPH[0], work.site, work.stopping)
    assert urgency == 32.0
    assert work.busy == set()
    assert durations.recall(tmp_path, GRAPH[0]) is None  # the time of a copy says nothing


def test_lines_are_logged_and_shown_and_a_glimpse_is_only_shown(tmp_path: Path) -> None:
    def carry(stage: Stage, site: Site, tell: Tell, stopping: Event, urgency: float) -> str:
        assert work.busy == {stage.name}
        for kind, text in (("state", "running"), ("line", "step 1"), ("line", ""), ("glimpse", "50 %")):
            tell(kind, text)
        assert (row.state, row.text) == ("running", "50 %")
        tell("seconds", "3.0")
        assert (row.state, row.text) == ("running", "50 %")
        return "ran"

    work, logged = begun(tmp_path, carry), []
    row = work.board.rows["a"]
    work.do(GRAPH[0], [], logged.append)
    assert logged == ["step 1"]
    assert (row.state, row.seconds) == ("ran", 3.0)


def test_what_depends_on_a_failed_stage_is_skipped_once_it_is_not_tried_again(tmp_path: Path) -> None:
    def fail(*_: object) -> str:
        raise StageError("it failed")

    work = begun(tmp_path, fail)
    for expected in (["failed", "waiting", "waiting", "waiting"], ["failed", "skipped", "skipped", "waiting"]):
        with pytest.raises(StageError):
            work.do(GRAPH[0], [], str)
        assert states(work) == expected
        assert work.busy == set()
    with pytest.raises(StageError):
        work.do(GRAPH[3], ["ran"], str)
    assert states(work)[3] == "failed"


def test_a_stage_of_a_stopped_run_is_shown_as_stopped_and_not_begun(tmp_path: Path) -> None:
    carry = Calls("ran")
    work = begun(tmp_path, carry)
    work.stopping.set()
    with pytest.raises(StoppedError):
        work.do(GRAPH[0], [], str)
    assert carry == []
    assert states(work)[0] == "stopped"
    assert work.busy == set()


def test_a_run_says_how_many_stages_ended_how(tmp_path: Path) -> None:
    work = begun(tmp_path, None)
    assert work.verdict() == "4 of 4 stages not begun"
    for stage, outcome in zip(GRAPH[:3], ("ran", "up to date", "ran"), strict=True):
        work.note(stage, outcome=outcome)
    assert work.verdict() == "1 of 4 stages not begun"
    assert not work.complete()
    work.note(GRAPH[3], outcome="restored")
    assert work.complete()
    assert work.verdict() == "1 up to date, 1 restored, 2 ran"
    assert states(work) == ["ran", "up to date", "ran", "restored"]
    assert begun(tmp_path, None, []).verdict() == "nothing to do"


def test_a_run_names_what_failed_and_counts_what_was_not_begun_for_it(tmp_path: Path) -> None:
    work = begun(tmp_path, None)
    work.note(GRAPH[0], fault="a: it broke")
    work.note(GRAPH[1])
    work.note(GRAPH[2])
    work.note(GRAPH[3], outcome="ran")
    assert states(work) == ["failed", "skipped", "skipped", "ran"]
    assert work.verdict() == "1 of 4 stages failed: a, 2 that depend on it not begun.\n\na: it broke"
    for stage in GRAPH[1:3]:
        work.note(stage, fault=f"{stage.label}: too")
    assert work.verdict() == "3 of 4 stages failed: a, b, c.\n\na: it broke\n\nb: too\n\nc: too"


def test_a_clock_begins_when_the_stage_runs_and_a_measured_time_holds_until_it_runs_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    time_ = Time()
    monkeypatch.setattr(time, "monotonic", time_.monotonic)
    clock = Clock()
    for seconds, kind, text in ((5, "state", "queued"), (4, "state", "running"), (3, "state", "running")):
        time_.now += seconds
        clock.hear(kind, text)
    assert clock.seconds == 3
    clock.hear("line", "7")
    assert clock.seconds == 3
    clock.hear("seconds", "34.5")
    time_.now += 2
    assert clock.seconds == 34.5
    clock.hear("state", "waiting for another dvc")
    assert clock.seconds == 34.5
    clock.hear("state", "running")
    time_.now += 1
    assert clock.seconds == 1


def test_a_copy_of_a_run_has_a_board_of_its_own_with_the_same_stages(tmp_path: Path) -> None:
    work = begun(tmp_path, run_nothing)
    work.stopping = None  # type: ignore[assignment]  # an Event cannot be copied: flows.runners has one that can
    work.note(GRAPH[0], outcome="ran")
    copy = pickle.loads(pickle.dumps(work))
    assert (states(copy), copy.board.console, copy.outcomes) == (["waiting"] * 4, None, {"a.yaml:a": "ran"})


def run_nothing(*_: object) -> str:
    return "ran"
