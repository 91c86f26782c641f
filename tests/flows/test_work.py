"""What the tasks of one run share: how it is stopped, and how long its stages took."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Event, Thread

import pytest

from flows import durations
from flows.board import Board
from flows.plan import Stage
from flows.slots import StoppedError
from flows.stage import Site, Tell
from flows.work import Work


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
