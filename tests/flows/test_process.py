"""Processes and slots: who lives, who is stopped, how many at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event, Thread

import psutil
import pytest

from etude.watch.locks import locked
from flows.process import _runs_in, group_lives, stop_group
from flows.slots import Slots, StoppedError
from tests.flows.conftest import wait_until

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(100)"


def test_stopping_a_group_also_ends_a_child_that_does_not_listen() -> None:
    shell = f"{sys.executable} -c '{DEAF}'; true"
    leader = subprocess.Popen(["sh", "-c", shell], start_new_session=True, stdout=subprocess.PIPE)
    assert leader.stdout
    leader.stdout.readline()  # the child has begun not to listen
    stop_group(leader.pid, 0.3, leader)
    assert leader.returncode == -signal.SIGTERM
    assert not group_lives(leader.pid)
    leader.stdout.close()


def test_a_leader_that_has_ended_already_is_waited_for() -> None:
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"], start_new_session=True) as leader:
        os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT)
        stop_group(leader.pid, 0.3, leader)
        assert leader.returncode == 3
    stop_group(leader.pid, 0.3)


def test_a_process_that_ends_while_it_is_looked_at_is_of_no_group() -> None:
    with subprocess.Popen([sys.executable, "-c", ""], start_new_session=True) as child:
        process = psutil.Process(child.pid)
    assert not _runs_in(process, child.pid)
    assert _runs_in(psutil.Process(), os.getpgrp())
    assert not _runs_in(psutil.Process(), child.pid)


def test_no_more_slots_are_given_than_there_are(tmp_path: Path) -> None:
    stopping, slots = Event(), Slots(tmp_path)
    with slots.take("job", 2, stopping) as first, slots.take("job", 2, stopping) as second:
        assert {first[0], second[0]} == {0, 1}
        stopping.set()
        with pytest.raises(StoppedError), Slots(tmp_path).take("job", 2, stopping):
            pass
    with slots.take("job", 2, stopping) as again:
        assert again[0] == 0


def test_the_most_urgent_of_those_that_wait_gets_the_slot(tmp_path: Path) -> None:
    slots, order = Slots(tmp_path), list[float]()

    def work(urgency: float) -> None:
        with slots.take("job", 1, Event(), urgency):
            order.append(urgency)

    with slots.take("job", 1, Event()):
        threads = [Thread(target=work, args=(urgency,)) for urgency in (1.0, 3.0, 2.0)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(slots._waiting["job"]) == 3)
    for thread in threads:
        thread.join()
    assert order == [3.0, 2.0, 1.0]


def test_a_slot_is_taken_for_as_long_as_a_process_that_inherited_it_lives(tmp_path: Path) -> None:
    with Slots(tmp_path).take("gpu", 1, Event()) as (_, file):
        child = subprocess.Popen(["sleep", "100"], pass_fds=[file])
    probe = os.open(tmp_path / "gpu-0.lock", os.O_RDWR)
    assert not locked(probe)
    child.kill()
    child.wait()
    assert locked(probe)
    os.close(probe)
