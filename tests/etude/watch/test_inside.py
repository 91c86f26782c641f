"""The watch over a stage, where this process is the stage. `test_watch` tests the same with real runs of DVC."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from etude.core.errors import ConflictError, StaleError
from etude.training.processes import OURS
from etude.watch import watch
from etude.watch.holders import TABLE
from etude.watch.locks import locked
from etude.watch.looks import Look, receipt
from etude.watch.stages import UNDER_DVC, load
from etude.watch.watch import clear_drafts, look_of, refuse_false, watched
from tests.etude.watch.watched import DEAD

DVC_YAML = """\
stages:
  one:
    cmd: python3 -m steps.work one
    deps: [in]
    params: [seed]
    outs: [out/one]
"""
LOCK = Path(".scratch/locks/one.lock")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one stage, which this process is."""
    monkeypatch.chdir(tmp_path)
    for name in (UNDER_DVC, OURS, "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    Path("dvc.yaml").write_text(DVC_YAML)
    Path("params.yaml").write_text("seed: 1\nother: 1\n")
    Path("in").mkdir()
    Path("in/code.txt").write_text("code")
    TABLE.parent.mkdir(parents=True)
    monkeypatch.setattr(watch, "this_stage", lambda: load(Path("dvc.yaml"), "one"))
    return tmp_path


def hold(pid: int, command: str, *reads: str) -> None:
    """DVC's table, as if a process made out/one of these paths."""
    info = {"pid": pid, "cmd": command}
    reading = {os.path.realpath(path): [info] for path in reads}
    TABLE.write_text(json.dumps({"write": {os.path.realpath("out/one"): info}, "read": reading}))


def hold_alive(*reads: str) -> None:
    hold(os.getpid(), "", *reads)


@contextmanager
def at_work() -> Iterator[None]:
    with watched(time.time()):
        yield


def test_what_a_stage_saw_is_kept_where_nothing_changed_meanwhile() -> None:
    with at_work():
        Path("params.yaml").write_text("seed: 1\nother: 2\n")
    assert Look.read(receipt("one"), Path()).changed() == []


@pytest.mark.parametrize("ends", [None, 0, 1])
def test_a_change_is_refused_however_the_stage_ends_and_a_failed_one_tells_its_own_fault(ends: int | None) -> None:
    with pytest.raises(SystemExit if ends else StaleError), at_work():
        Path("in/code.txt").write_text("other")
        raise SystemExit(ends)
    assert not receipt("one").exists()


def test_another_command_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "this_stage", lambda: None)
    with at_work():
        Path("in/code.txt").write_text("other")
    assert not Path(".scratch").exists()


def test_other_deps_in_dvc_yaml_are_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StaleError, match=r"the deps of one in dvc\.yaml and its params"), at_work():
        Path("dvc.yaml").write_text(DVC_YAML.replace("[in]", "[in, dvc.yaml]"))
    with pytest.raises(StaleError, match=r"the deps of .* in dvc\.yaml and its params"), at_work():
        monkeypatch.setattr(watch, "this_stage", lambda: None)


def test_a_task_is_told_what_its_stage_saw_and_of_other_stages_what_is_there_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = Path("pipelines/own/dvc.yaml")
    file.parent.mkdir(parents=True)
    file.write_text(DVC_YAML.replace("    cmd", "    wdir: ../..\n    cmd"))
    monkeypatch.setattr(watch, "this_stage", lambda: load(file, "one"))
    with at_work():
        Path("in/code.txt").write_text("other")
        assert look_of(file, "one").changed() == ["in/code.txt"]
        assert look_of(Path("dvc.yaml"), "one").changed() == []
        Path("in/code.txt").write_text("code")
    assert receipt(f"{file.as_posix()}:one").exists()


@pytest.mark.parametrize("set_back", [True, False])
def test_code_that_was_edited_after_its_import_is_refused_also_where_its_time_was_set_back(
    set_back: bool, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, other = ModuleType("made"), ModuleType("elsewhere")
    module.__file__, other.__file__ = str(project / "in/made.py"), str(project / "beside.py")
    for each in (module, other):
        monkeypatch.setitem(sys.modules, each.__name__, each)
        Path(str(each.__file__)).touch()
    began = time.time() - 60
    if set_back:
        os.utime("in/made.py", (0, 0))
    with pytest.raises(StaleError, match=r"^in/made\.py: changed while"), watched(began):
        pass
    with watched(time.time() + 1):
        pass
    Path("in/made.py").unlink()
    with pytest.raises(StaleError, match=r"^in/made\.py: changed while"), watched(began):
        pass


def test_one_process_is_at_a_stage_and_its_number_is_in_the_lock() -> None:
    with at_work():
        assert LOCK.read_text() == str(os.getpid())
        (own,) = (file.fd for file in psutil.Process().open_files() if Path(file.path).name == LOCK.name)
        assert os.get_inheritable(own)
        other = os.open(LOCK, os.O_RDWR)
        assert not locked(other)
    assert locked(other)
    os.close(other)


def test_of_several_processes_of_a_stage_only_the_first_holds_its_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OURS, "2")
    monkeypatch.setenv("RANK", "1")
    with at_work():
        pass
    assert not LOCK.exists()
    assert not receipt("one").exists()


def test_drafts_go_only_where_the_stage_that_is_at_work_publishes() -> None:
    for name in (".one-old", ".one", ".other-old", "one-old"):
        Path("out", name).mkdir(parents=True)
    before = sorted(os.listdir("out"))
    clear_drafts(Path("out/one"))  # no stage is at work
    assert sorted(os.listdir("out")) == before
    with at_work():
        clear_drafts(Path("out/other"))
        assert sorted(os.listdir("out")) == before
        clear_drafts(Path("out/one"))
    assert sorted(os.listdir("out")) == [".one", ".other-old", "one-old"]


def test_nobody_publishes_where_a_living_dvc_is_at_work_that_did_not_begin_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hold_alive()
    with pytest.raises(ConflictError, match=rf"out/one: dvc \(process {os.getpid()}\) is making it"):
        refuse_false(Path("out/one"), None)
    with pytest.raises(ConflictError, match="is making it"), at_work():
        pass
    refuse_false(Path("out/other"), None)
    hold(DEAD, "dvc repro")
    refuse_false(Path("out/one"), None)
    hold_alive()
    monkeypatch.setenv(UNDER_DVC, "one")
    refuse_false(Path("out/one"), None)


def test_what_a_task_saw_itself_must_be_true_too_when_it_publishes() -> None:
    look = Look(["in"])
    refuse_false(Path("out/one"), look)
    Path("in/code.txt").write_text("other")
    with pytest.raises(StaleError, match=r"in/code\.txt"):
        refuse_false(Path("out/one"), look)
    with at_work():
        refuse_false(Path("out/one"), None)
        with pytest.raises(StaleError, match=r"in/code\.txt"):
            refuse_false(Path("out/one"), look)
        Path("in/code.txt").write_text("a third")
        with pytest.raises(StaleError, match=r"in/code\.txt"):
            refuse_false(Path("out/one"), None)
        Path("in/code.txt").write_text("other")


def test_a_stage_whose_dvc_has_ended_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    hold(DEAD, "dvc repro")
    monkeypatch.setenv(UNDER_DVC, "one")
    with pytest.raises(StaleError, match=rf"dvc \(process {DEAD}\), which started this stage, has ended"), at_work():
        pass


def test_a_stage_for_which_dvc_read_other_deps_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(UNDER_DVC, "one")
    for reads in (("in", "params.yaml"), ()):  # DVC's table may say nothing
        hold_alive(*reads)
        with at_work():
            pass
    hold_alive("in/data", "params.yaml")
    with (
        pytest.raises(StaleError, match=r"after dvc started \(removed deps: in/data; added deps: in\)\. Next"),
        at_work(),
    ):
        pass
    hold_alive("in", "params.yaml", "more")
    with pytest.raises(StaleError, match=r"after dvc started \(removed deps: more\)\. Next"), at_work():
        pass


def test_a_stage_ends_in_order_at_sigterm_and_then_everything_is_as_before() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, at_work():
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_stage_that_nobody_would_record_publishes_nothing() -> None:
    with pytest.raises(StaleError, match=r"^one: abandoned. Next: run `dvc repro` again"), at_work():
        watch._current[-1].abandoned = "abandoned"
        with pytest.raises(StaleError, match=r"^one: abandoned"):
            refuse_false(Path("out/one"), None)
