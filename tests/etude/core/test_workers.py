"""Work on all cores: in order, and no process stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from etude.core import workers
from etude.core.errors import InputError, OutOfMemoryError
from etude.core.workers import CHUNK, cores, in_order
from tests.shipped import ROOT

SLEEPING = """
import time
from etude.core import workers
if __name__ == "__main__":
    workers.TRIAL = workers.PAYS = -1.0
    workers.cores = lambda: 2
    print("started", flush=True)
    list(workers.in_order(time.sleep, [0.05] * 10_000))
"""


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers, from the first item on."""
    monkeypatch.setattr(workers, "TRIAL", -1.0)
    monkeypatch.setattr(workers, "PAYS", -1.0)
    monkeypatch.setattr(workers, "cores", lambda: 2)


def test_the_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(workers, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert cores() == 3
    for quota, count in (("max 100000", 3), ("150000 100000", 2), ("1000 100000", 1), ("900000 100000", 3)):
        workers.QUOTA.write_text(f"{quota}\n")
        assert cores() == count
    workers.QUOTA.unlink()
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert cores() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "cpu_count", lambda: 96)
    assert cores() == 61  # ProcessPoolExecutor refuses more


def place_of_work(number: int) -> tuple[int, int]:
    time.sleep(0.01 * (number % 3))
    return number, os.getpid()


def test_results_come_in_order_from_several_processes_and_where_little_is_left_from_this_one(two: None) -> None:
    numbers, processes = zip(*in_order(place_of_work, range(5 * CHUNK)), strict=True)
    assert numbers == tuple(range(5 * CHUNK))
    assert len(set(processes)) == 2
    assert os.getpid() not in processes
    workers.TRIAL, workers.PAYS = 0.005, 1e6
    assert {process for _, process in in_order(place_of_work, range(4))} == {os.getpid()}


def test_one_core_works_on_all_by_itself(two: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 1)
    assert {process for _, process in in_order(place_of_work, range(4))} == {os.getpid()}


def fail(number: int) -> None:
    if number == 3:
        raise InputError("a.png", "is empty", "leave it out")
    if number == 2 * CHUNK:
        os._exit(9)


def test_an_error_in_a_worker_is_that_of_this_process_and_a_lost_worker_is_named(two: None) -> None:
    with pytest.raises(InputError, match=r"^a\.png: is empty\. Next: leave it out\.$"):
        list(in_order(fail, range(CHUNK)))
    with pytest.raises(OutOfMemoryError, match="was killed, as happens when memory runs out"):
        list(in_order(fail, range(CHUNK, 3 * CHUNK)))


@pytest.mark.skipif(sys.platform == "win32", reason="the signals of Unix")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_the_process_that_started_it(number: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "sleeping.py"
    script.write_text(SLEEPING)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = subprocess.Popen(
        [sys.executable, script], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    working: list[psutil.Process] = []
    while len(working) < 2:  # both have loaded what they need, and ignore Ctrl-C
        time.sleep(0.05)
        children = psutil.Process(started.pid).children()
        working = [child for child in children if "spawn_main" in " ".join(child.cmdline()) and child.num_threads() > 1]
    if number == signal.SIGINT:
        os.killpg(started.pid, number)  # as a terminal does
    else:
        started.kill()
    _, said = started.communicate(timeout=30)
    assert psutil.wait_procs(working, timeout=30)[1] == []
    assert said.count("KeyboardInterrupt") == (number == signal.SIGINT)  # of the one process, not of workers
