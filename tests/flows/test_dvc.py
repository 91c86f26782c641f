"""The dvc that runs one stage: how it is called, how its end is read, when it is tried again. DVC itself is not run."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from flows import stage as module
from flows.plan import Stage
from flows.stage import BUSY_WAITS, LOG_LIMIT, TABLE_TRIES, Site, StageError
from tests.flows.conftest import Calls

STAGE = Stage("x.yaml:build", "x:build", timeout=90.0)


class Dvc:
    """Runs of dvc: each one appends a text to the log and ends with a code; `asked` are the commands."""

    def __init__(self, site: Site, *ends: tuple[str, int, bool]) -> None:
        self.site, self.ends, self.asked = site, list(ends), Calls()
        for file in (site.log(STAGE), site.holder(STAGE)):
            file.parent.mkdir(parents=True, exist_ok=True)
        site.log(STAGE).write_text("of an earlier run: 'x.yaml:build' is cached - skipping run\n")

    @contextmanager
    def start(self, command: list[str], root: Path, given: Any, stopping: Event) -> Iterator[Any]:
        self.asked(command[1:], root, given)
        text, code, self.late = self.ends.pop(0)
        with self.site.log(STAGE).open("a") as log:
            log.write(text)
        yield SimpleNamespace(pid=77, returncode=code)
        assert self.site.holder(STAGE).read_text() == "stage 77"

    def run(self, monkeypatch: pytest.MonkeyPatch, told: Calls) -> str:
        monkeypatch.setattr(module, "_process", self.start)
        self.followed = Calls()
        monkeypatch.setattr(module, "_follow", lambda *given: (self.followed(*given), self.late)[1])
        return module._repro(STAGE, self.site, "given", told, Event())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("Stage 'x.yaml:build' didn't change, skipping\n", "unchanged"),
        ("Stage 'x.yaml:build' is cached - skipping run, checking out outputs\n", "restored"),
        ("Running stage 'x.yaml:build'\nStage 'other' didn't change, skipping\n", "ran"),
        ("", "ran"),
    ],
)
def test_an_outcome_is_what_dvc_says_of_this_stage_in_this_run(
    text: str, outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dvc, told = Dvc(Site(tmp_path, 1), (text, 0, False)), Calls()
    assert dvc.run(monkeypatch, told) == outcome
    words = ["-m", "dvc", "--wait-for-lock", "repro", "--single-item", STAGE.name]
    assert dvc.asked == [(words, tmp_path, "given")]
    assert [text for _, text in told] == text.splitlines()  # nothing of the earlier run
    assert dvc.followed[0][3] == 90.0


def test_a_stage_that_is_forced_or_pulled_tells_dvc_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for site, words in (
        (Site(tmp_path, 1, force=True), ["--single-item", "--force"]),
        (Site(tmp_path, 1, pull=True), ["--pull"]),
    ):
        dvc = Dvc(site, ("", 0, False))
        dvc.run(monkeypatch, Calls())
        assert dvc.asked[0][0][4:-1] == words


LOST = "ERROR: failed to reproduce 'x.yaml:build': \n"
BUSY = "'out' is busy, it is being blocked by:\n  (PID 12): dvc repro\n  (PID 13): dvc push\n"


def test_a_lost_table_is_repaired_and_the_stage_tried_again_a_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repaired = Calls()
    monkeypatch.setattr(module, "repair", repaired)
    dvc = Dvc(Site(tmp_path, 1), *[(LOST, 1, False)] * TABLE_TRIES, ("", 0, False))
    assert dvc.run(monkeypatch, Calls()) == "ran"
    assert repaired == [(tmp_path,)] * TABLE_TRIES
    dvc = Dvc(Site(tmp_path, 1), *[("Unable to read RWLock-file\n", 1, False)] * (TABLE_TRIES + 1))
    with pytest.raises(StageError, match="x:build ended with exit code 1"):
        dvc.run(monkeypatch, Calls())
    assert len(repaired) == 2 * TABLE_TRIES


def test_another_dvc_is_waited_for_longer_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited, told = Calls(), Calls()
    monkeypatch.setattr(module, "_wait_for", waited)
    tries = len(BUSY_WAITS) + 2
    dvc = Dvc(Site(tmp_path, 1), *[(BUSY, 1, False)] * tries, ("", 0, False))
    assert dvc.run(monkeypatch, told) == "ran"
    assert [patience for _, patience, *_ in waited] == [*BUSY_WAITS, BUSY_WAITS[-1], BUSY_WAITS[-1]]
    assert waited[0][0] == [("12", "dvc repro"), ("13", "dvc push")]
    assert waited[0][2] == tmp_path
    states = [text for kind, text in told if kind == "state"]
    assert states == ["waiting for another dvc", "running"] * tries


@pytest.mark.parametrize(
    ("text", "code", "late", "said"),
    [
        (BUSY, 1, True, "x:build took longer than its 90 s. Its log, logs/x/build.log, ends with:"),
        (LOST, 0, True, "x:build took longer than its 90 s."),
        ("Running\n\nexited with 3\nexited with -9\n", 1, False, "x:build ended with exit code -9."),
        ("(PID 12): dvc repro\n", 4, False, "x:build ended with exit code 4."),
        ("is busy, it is being blocked by\n", 5, False, "x:build ended with exit code 5."),
    ],
)
def test_a_fault_has_the_code_of_the_program_or_the_time_and_the_end_of_the_log(
    text: str, code: int, late: bool, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StageError) as error:
        Dvc(Site(tmp_path, 1), (text, code, late)).run(monkeypatch, Calls())
    lines = str(error.value).splitlines()
    assert lines[0].startswith(said)
    assert lines[1:] == [f"    {line.rstrip()}" for line in text.splitlines() if line.strip()]


def test_a_full_disk_is_said_where_the_log_says_it_or_little_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "logs/x/build.log"
    for free, last, full in (
        (LOG_LIMIT, "broken", False),
        (LOG_LIMIT - 1, "broken", True),
        (LOG_LIMIT, f"[Errno 28] {os.strerror(errno.ENOSPC)}", True),
    ):
        monkeypatch.setattr(module, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        text = module._fault(STAGE, 1, tmp_path, log, [last], False)
        assert text.splitlines()[1] == f"    {last}"
        assert ("The disk is full" in text) == full
