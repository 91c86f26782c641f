"""Groups of processes and slots: signals, patience, and locks that nobody keeps. Without a process."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from etude.watch.locks import locked
from flows import process as groups
from flows import stage as module
from flows.slots import Slots, StoppedError
from flows.stage import GRACE
from tests.flows.conftest import Calls, Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(groups, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("ends", "numbers", "took"),
    [
        (0.0, [signal.SIGTERM], 0.0),
        (1.0, [signal.SIGTERM], 1.0),
        (6.0, [signal.SIGTERM, signal.SIGKILL], 6.0),
        (99.0, [signal.SIGTERM, signal.SIGKILL], 7.0),
    ],
)
def test_a_group_is_asked_to_end_and_killed_after_the_grace_and_its_leader_is_reaped(
    ends: float, numbers: list[int], took: float, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, polled, reaped = Calls(True), Calls(), Calls()
    monkeypatch.setattr(groups, "_signal", sent)
    monkeypatch.setattr(groups, "group_lives", lambda group: clock.now < ends)
    groups.stop_group(12, 5.0, SimpleNamespace(poll=polled, wait=reaped))  # type: ignore[arg-type]
    assert sent == [(12, number) for number in numbers]
    assert took <= clock.now < took + 0.5
    assert (len(polled) > 0, len(reaped)) == (took > 0, 1)
    groups.stop_group(12, 5.0)  # without a leader


def test_a_group_that_is_gone_is_not_waited_for(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Calls(False)
    monkeypatch.setattr(groups, "_signal", sent)
    monkeypatch.setattr(groups, "group_lives", lambda _: True)
    groups.stop_group(12, 5.0)
    assert (sent, clock.now) == ([(12, signal.SIGTERM)], 0.0)


@pytest.mark.parametrize("error", [ProcessLookupError, PermissionError, None])
def test_a_signal_reaches_the_group_or_finds_none(error: type[OSError] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Calls()

    def kill(group: int, number: int) -> None:
        sent(group, number)
        if error:
            raise error

    monkeypatch.setattr(groups.os, "killpg", kill)
    assert groups._signal(12, 15) is (error is None)
    assert sent == [(12, 15)]


def test_a_group_lives_where_one_of_its_processes_does_and_is_no_zombie(monkeypatch: pytest.MonkeyPatch) -> None:
    of_group = {1: 12, 2: 12, 3: 5}
    states = {1: psutil.STATUS_ZOMBIE, 2: psutil.STATUS_SLEEPING, 3: psutil.STATUS_RUNNING}
    there = [1, 2, 3, 4]
    monkeypatch.setattr(groups, "_signal", lambda group, number: group == 12 and number == 0)
    monkeypatch.setattr(groups.os, "getpgid", lambda pid: of_group[pid] if pid in of_group else no_process())
    found = lambda pid: SimpleNamespace(pid=pid, status=lambda: states[pid])  # noqa: E731
    monkeypatch.setattr(groups.psutil, "process_iter", lambda: map(found, there))
    assert groups.group_lives(12)
    assert not groups.group_lives(5)
    there.remove(2)
    assert not groups.group_lives(12)


def no_process() -> int:
    raise ProcessLookupError


@pytest.mark.parametrize("code", [0, 1, None])
def test_what_a_stage_leaves_running_is_stopped_unless_it_ended_well(
    code: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = SimpleNamespace(pid=77, poll=lambda: code)
    begun, stopped = Calls(process), Calls()
    monkeypatch.setattr(module.subprocess, "Popen", begun)
    monkeypatch.setattr(module, "stop_group", stopped)
    given: Any = SimpleNamespace(env={"a": "b"}, output="log", fds=[3, 4])
    with module._process(["dvc"], tmp_path, given, Event()) as own:
        assert own is process  # type: ignore[comparison-overlap]
    ((command, named),) = begun
    assert (command, named["cwd"], named["env"], named["pass_fds"]) == (["dvc"], tmp_path, {"a": "b"}, [3, 4])
    assert (named["stdin"], named["stdout"], named["stderr"]) == (subprocess.DEVNULL, "log", subprocess.STDOUT)
    assert named["start_new_session"] is True
    assert stopped == ([] if code == 0 else [(77, GRACE, process)])
    over = Event()
    over.set()
    with pytest.raises(StoppedError), module._process(["dvc"], tmp_path, given, over):
        pass
    assert len(begun) == 1


def test_who_no_longer_waits_for_a_slot_is_in_nobodys_way(tmp_path: Path) -> None:
    slots, over = Slots(tmp_path / "deep/slots"), Event()
    over.set()
    with slots.take("job", 1, over) as (number, lock):  # it is free: taken at once, stopped or not
        assert number == 0
        assert (tmp_path / "deep/slots/job-0.lock").stat().st_mode & 0o777 == 0o644
        with (tmp_path / "deep/slots/job-0.lock").open("a") as file:
            assert os.path.samestat(os.fstat(lock), os.fstat(file.fileno()))
            assert not locked(file.fileno())
        with pytest.raises(StoppedError), slots.take("job", 1, over, urgency=9.0):
            pass
        with slots.take("other", 1, over) as (number, _):
            assert number == 0
    with slots.take("job", 1, over) as (number, _):
        assert number == 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(lock)
    assert slots._waiting == {"job": set(), "other": set()}


def test_a_copy_of_slots_shares_their_files_and_not_their_queue(tmp_path: Path) -> None:
    slots, over = Slots(tmp_path), Event()
    over.set()
    with slots.take("job", 2, over):
        copy = pickle.loads(pickle.dumps(slots))
        assert (copy.folder, dict(copy._waiting)) == (tmp_path, {})
        with copy.take("job", 2, over) as (number, _):
            assert number == 1
