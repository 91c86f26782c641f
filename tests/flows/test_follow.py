"""A stage's process as the flow sees it: locks, slots, waiting, tries, patience; with a process that only ends."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from etude.core.errors import StaleError
from etude.watch.locks import locked
from flows import stage as module
from flows.plan import Stage
from flows.slots import StoppedError
from flows.stage import GRACE, LOG_LIMIT, Site, StageError, Tail
from tests.flows.conftest import Calls, Clock, Waits

STAGE = Stage("x.yaml:build", "x:build", timeout=90.0)
GPU = Stage("x.yaml:train", "x:train", resource="gpu")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def did(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `run` calls; DVC is not run, and answers with `did["repro"].result`."""
    did: dict[str, Any] = {"repro": Calls("ran"), "begin": Calls(), "check": Calls(), "record": Calls()}
    did["record"].result = SimpleNamespace(begin=did["begin"], check=did["check"])
    monkeypatch.setattr(module, "Record", did["record"])
    monkeypatch.setattr(module, "_repro", did["repro"])
    return did


def test_a_stage_that_waits_for_its_turn_names_its_flow_as_the_holder_of_its_log(
    tmp_path: Path, did: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, held = Site(tmp_path, 1), list[str]()

    def repro(stage: Stage, *_: object) -> str:
        held.append(site.holder(stage).read_text())
        site.holder(stage).unlink()  # somebody cleared `.scratch` meanwhile
        return "ran"

    monkeypatch.setattr(module, "_repro", repro)
    assert module.run(STAGE, site, Calls(), Event()) == "ran"
    assert held == [f"flow {os.getpid()}"]


def test_a_stage_gets_its_log_its_slots_and_its_device_and_leaves_them(tmp_path: Path, did: dict[str, Any]) -> None:
    site, told = Site(tmp_path, 1, ["7", "8"], held=[0]), Calls()
    with site.slots.take("gpu", 2, Event()):
        assert module.run(GPU, site, told, Event(), 2.0) == "ran"
        module.run(STAGE, site, told, Event())  # it takes no GPU
    module.run(GPU, Site(tmp_path, 1), told, Event())  # and none that is not there
    assert told == [("state", "queued"), ("state", "running")] * 3
    (train, _, given, tell, _), (*_, other, _, _), (*_, none, _, _) = did["repro"]
    assert (train, tell, given.output.name) == (GPU, told, str(tmp_path / "logs/x/train.log"))
    assert given.env["CUDA_VISIBLE_DEVICES"] == "8"
    assert (len(given.fds), len(other.fds), len(none.fds)) == (3, 2, 1)
    assert given.fds[0] == other.fds[0] == 0
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == other.env.get("CUDA_VISIBLE_DEVICES")
    assert not list(tmp_path.glob(".scratch/running/**/*.pid"))
    assert sorted(file.name for file in (tmp_path / ".scratch/slots").iterdir()) == [
        "gpu-0.lock",
        "gpu-1.lock",
        "job-0.lock",
    ]
    assert did["record"][0] == (tmp_path, GPU.name)
    with (tmp_path / "logs/x/train.log").open("a") as log:
        assert locked(log.fileno())


@pytest.mark.parametrize(("size", "left"), [(LOG_LIMIT + 1, 0), (LOG_LIMIT, LOG_LIMIT)])
def test_a_log_is_emptied_only_where_it_is_larger_than_its_limit(
    size: int, left: int, tmp_path: Path, did: dict[str, Any]
) -> None:
    site = Site(tmp_path, 1)
    site.log(STAGE).parent.mkdir(parents=True)
    site.log(STAGE).write_bytes(bytes(size))
    module.run(STAGE, site, Calls(), Event())
    assert site.log(STAGE).stat().st_size == left


@pytest.mark.parametrize(
    ("waited", "outcome", "told", "checked"),
    [
        (False, "ran", "ran", True),
        (False, "unchanged", "unchanged", False),
        (False, "restored", "restored", False),
        (True, "ran", "ran", True),
        (True, "unchanged", "adopted", True),
        (True, "restored", "adopted", False),
    ],
)
def test_a_record_is_checked_where_a_program_ran_here_or_for_a_flow_that_is_gone(
    waited: bool,
    outcome: str,
    told: str,
    checked: bool,
    tmp_path: Path,
    did: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_lock_log", lambda *_: waited)
    did["repro"].result = outcome
    assert module.run(STAGE, Site(tmp_path, 1), Calls(), Event()) == told
    assert (len(did["check"]), len(did["begin"])) == (checked, not waited)


def test_a_false_record_is_a_fault_of_the_stage(tmp_path: Path, did: dict[str, Any]) -> None:
    def refuse() -> None:
        raise StaleError("a.png", "changed", "run it again")

    did["record"].result.check = refuse
    with pytest.raises(StageError, match=r"^x:build: a\.png: changed"):
        module.run(STAGE, Site(tmp_path, 1), Calls(), Event())


def test_a_stage_that_runs_elsewhere_is_followed_until_its_log_is_free(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, told = tmp_path / "log", Calls()
    log.write_text("before\n")
    tail = Tail(log, log.stat().st_size)
    looked = Calls(False)
    monkeypatch.setattr(module, "_abandoned", looked)
    monkeypatch.setattr(module, "locked", lambda _: clock.now > GRACE)
    with log.open("ab", buffering=0) as output:
        output.write(b"step 1\n")
        assert module._lock_log(output, tmp_path / "pid", tail, told, Waits(clock)) is True
        assert told == [("state", "running elsewhere"), ("line", "step 1")]
        assert looked == [(tmp_path / "pid",)] * 3  # after each quarter of GRACE
        clock.now = 0.0
        with pytest.raises(StoppedError):
            module._lock_log(output, tmp_path / "pid", tail, told, Waits(clock, at=1.0))
        looked.result = True
        clock.now = 0.0
        assert module._lock_log(output, tmp_path / "pid", tail, told, Waits(clock)) is True
        assert GRACE / 4 < clock.now < GRACE / 2
        monkeypatch.setattr(module, "locked", lambda _: True)
        told.clear()
        assert module._lock_log(output, tmp_path / "pid", tail, told, Waits(clock)) is False
    assert told == []


@pytest.mark.parametrize(
    ("text", "living", "abandoned"),
    [
        (None, False, True),
        ("", False, False),  # just being written
        ("flow 12", False, False),
        ("stage 12", True, False),
        ("stage 12", False, True),
    ],
)
def test_a_stage_is_abandoned_where_its_dvc_is_gone_and_its_children_are_stopped_first(
    text: str | None, living: bool, abandoned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = Calls()
    monkeypatch.setattr(module, "lives", lambda pid: living and pid == 12)
    monkeypatch.setattr(module, "stop_group", stopped)
    monkeypatch.setattr(module, "group_lives", lambda pid: not stopped or pid != 12)
    if text is not None:
        (tmp_path / "pid").write_text(text)
    assert module._abandoned(tmp_path / "pid") is abandoned
    assert stopped == ([(12, GRACE)] if text == "stage 12" and not living else [])


def test_waiting_ends_when_a_process_that_blocks_is_gone_and_its_entry_is_removed(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten = Calls()
    monkeypatch.setattr(module, "forget", forgotten)
    monkeypatch.setattr(module, "lives", lambda pid, command: (pid, command) != (12, "dvc repro") or clock.now < 1.0)
    blockers = [("12", "dvc repro"), ("13", "dvc push")]
    module._wait_for(blockers, 4.0, tmp_path, Waits(clock))
    assert forgotten == [(tmp_path, 12)]
    assert 1.0 <= clock.now < 1.5
    clock.now = 0.0
    module._wait_for(blockers[1:], 4.0, tmp_path, Waits(clock))
    assert 4.0 <= clock.now < 4.5
    with pytest.raises(StoppedError):
        module._wait_for(blockers[1:], 4.0, tmp_path, Waits(clock, at=5.0))
    assert len(forgotten) == 1


@pytest.mark.parametrize(("timeout", "late"), [(3.0, True), (0.0, False), (20.0, False)])
def test_a_process_is_followed_to_its_end_or_its_timeout(
    timeout: float, late: bool, tmp_path: Path, clock: Clock
) -> None:
    (tmp_path / "log").write_text("")
    dvc = SimpleNamespace(poll=lambda: 0 if clock.now >= 10.0 else None)
    assert module._follow(dvc, Tail(tmp_path / "log", 0), Calls(), timeout, Waits(clock)) is late  # type: ignore[arg-type]
    assert timeout < clock.now < timeout + 0.5 if late else 10.0 <= clock.now < 10.5
    clock.now = 0.0
    with pytest.raises(StoppedError):
        module._follow(dvc, Tail(tmp_path / "log", 0), Calls(), timeout, Waits(clock, at=1.0))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["base: x\n", "processes: many\n", "processes: [\n", "processes:\n", None])
def test_a_build_of_which_nobody_says_how_many_processes_it_has_gets_one_gpu(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "params.yaml").write_text(text)
    build, site = Stage("x.yaml:build", "x:build", resource="gpu"), Site(tmp_path, 2, ["4", "5"])
    with module._gpus(build, site, Event(), 0.0) as taken:
        assert [number for number, _ in taken] == [0]


def test_a_stage_that_asks_for_nothing_runs_once_on_the_cpu_for_as_long_as_it_takes() -> None:
    stage = Stage("a", "a")
    assert (stage.resource, stage.retries, stage.timeout) == ("cpu", 0, 0.0)


def test_only_the_last_twenty_lines_of_a_log_are_shown_with_a_fault(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("".join(f"{number}\n" for number in range(50)))
    tail = Tail(tmp_path / "log", 0)
    tail.follow(Calls())
    assert list(tail.last) == [str(number) for number in range(30, 50)]


def test_a_log_that_is_shorter_than_before_is_read_from_its_start(tmp_path: Path) -> None:
    log, told = tmp_path / "log", Calls()
    log.write_text("step 10\n")
    tail = Tail(log, 0)
    tail.follow(told)
    log.write_text("step 1\n")  # a byte less
    tail.follow(told)
    assert told == [("line", "step 10"), ("line", "step 1")]


def test_what_dvc_says_after_every_stage_is_kept_for_errors_and_not_shown(tmp_path: Path) -> None:
    hints = (
        "Updating lock file 'dvc.lock'",
        "To track the changes with git, run:",
        "\tgit add pipelines/lora/dvc.lock",
        "To enable auto staging, run:",
        "\tdvc config core.autostage true",
        "Use `dvc push` to send your updates to remote storage.",
    )
    log, told = tmp_path / "log", Calls()
    log.write_text("".join(f"{line}\n" for line in ("step 1", *hints, "git add dvc.lock fails")))
    tail = Tail(log, 0)
    tail.follow(told)
    tail.follow(told)  # nothing new
    assert told == [("line", "step 1"), ("line", "git add dvc.lock fails")]
    assert len(tail.last) == len(hints) + 2
