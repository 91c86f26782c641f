"""Which process works on a path, according to DVC's lock table; and the ancestors of this process."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from etude.watch.holders import TABLE, above, gone, holder_of, lives
from tests.etude.watch.watched import DEAD


def info(pid: int, command: str = "dvc repro") -> dict[str, Any]:
    return {"pid": pid, "cmd": command}


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    TABLE.parent.mkdir(parents=True)
    return tmp_path / TABLE


def write(table: Path, out: str, pid: int, reading: dict[str, list[dict[str, Any]]]) -> None:
    paths = {str(Path(path).resolve()): infos for path, infos in reading.items()}
    table.write_text(json.dumps({"write": {str(Path(out).resolve()): info(pid)}, "read": paths}))


def test_a_dvc_reads_what_it_locked_itself_and_not_what_others_did_nor_what_the_dead_left(table: Path) -> None:
    mine = os.getpid()
    reading = {
        "own": [info(mine)],
        "shared": [info(DEAD), info(mine)],
        "others": [info(mine + 1)],
        "left": [info(DEAD)],
    }
    write(table, "out/a", mine, reading)
    holder = holder_of("out/a")
    assert holder
    assert holder.pid == mine
    assert holder.reads == {os.path.realpath("own"), os.path.realpath("shared")}
    assert holder_of("out/b") is None


def test_what_a_dvc_reads_and_writes_is_no_dep(table: Path) -> None:
    write(table, "out/a", 5, {"out/a": [info(5)], "own": [info(5)]})
    content = json.loads(table.read_text())
    content["read"]["refs/exps/x"] = [info(5)]  # no path
    table.write_text(json.dumps(content))
    holder = holder_of("out/a")
    assert holder
    assert holder.reads == {os.path.realpath("own")}


def test_a_holder_that_is_dead_or_whose_number_another_process_has_does_not_live(table: Path) -> None:
    write(table, "out/a", DEAD, {})
    holder = holder_of("out/a")
    assert holder
    assert not holder.lives
    write(table, "out/a", os.getpid(), {})  # which was not started as `dvc repro`
    holder = holder_of("out/a")
    assert holder
    assert not holder.lives
    assert lives(os.getpid())


def test_the_table_of_dvcs_root_counts_first(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", "outer")
    outer = Path("outer") / TABLE
    outer.parent.mkdir(parents=True)
    write(outer, "out/a", 7, {})
    write(table, "out/b", 8, {})
    found = [holder_of("out/a"), holder_of("out/b")]
    assert [holder.pid for holder in found if holder] == [7, 8]


@pytest.mark.parametrize("damage", ["", '{"write": {"', "[]", "null"])
def test_a_damaged_table_says_nothing(table: Path, damage: str) -> None:
    table.write_text(damage)
    assert holder_of("out/a") is None
    table.unlink()
    assert holder_of("out/a") is None


def test_the_processes_above_end_at_the_one_that_is_asked_for() -> None:
    chain = psutil.Process().parents()
    assert above(chain[-1].pid) == chain
    assert above(chain[0].pid) == chain[:1] == above(None) == above(DEAD)


def test_a_process_that_nobody_reaped_is_gone() -> None:
    child = subprocess.Popen(["sleep", "100"])
    process, own = psutil.Process(child.pid), psutil.Process()
    assert gone([own, process]) is None
    assert lives(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # until it has ended
    assert gone([own, process]) == process
    assert not lives(child.pid)
    child.wait()
    assert gone([own, process]) == process
    assert not lives(child.pid)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="only Linux tells the arguments of a process")
def test_a_later_process_with_the_same_number_is_not_taken_for_the_first() -> None:
    with subprocess.Popen(["cat", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"\n")
        process.stdout.read(1)  # so it has begun: its arguments show a moment after it starts
        assert lives(process.pid, "cat -")
        assert not lives(process.pid, "dvc repro")


def test_a_process_that_the_system_tells_nothing_of_is_taken_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    process = psutil.Process()

    def denied(*_: object) -> None:
        raise psutil.AccessDenied(1)

    monkeypatch.setattr(psutil.Process, "is_running", denied)
    assert gone([process]) is None
    monkeypatch.setattr(psutil, "Process", denied)
    assert lives(1, "dvc repro")
    assert above(1) == []
