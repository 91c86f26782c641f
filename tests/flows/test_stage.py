"""One stage as a process: what it is given, how it ends, and what is left of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import psutil
import pytest

from etude.core.errors import InputError
from etude.watch.holders import lives
from etude.watch.locks import locked
from flows import stage as stage_module
from flows.plan import Stage, load
from flows.repository import forget
from flows.slots import StoppedError
from flows.stage import Site, StageError, Tail, _gpus, environment, run
from tests.flows.conftest import Project
from tests.shipped import git

# DVC 3.67 calls what pygtrie 2.5 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")


class Told(list[tuple[str, str]]):
    """What is told of a stage."""

    def __call__(self, kind: str, text: str) -> None:
        self.append((kind, text))


def only(project: Project) -> tuple[Stage, Site]:
    (stage,) = load(project.root)
    return stage, Site(project.root, jobs=1)


def test_a_stage_runs_then_is_unchanged_then_comes_from_the_run_cache(project: Project) -> None:
    project.stages(only={"params": ["rate"]})
    for rate, outcome in ((1, "ran"), (1, "unchanged"), (2, "ran"), (1, "restored")):
        (project.root / "params.yaml").write_text(f"rate: {rate}\n")
        assert run(*only(project), Told(), Event()) == outcome
    assert project.runs() == ["only", "only"]
    assert (project.root / "logs/only.log").read_text().count("Running stage 'only'") == 2


def test_a_failing_stage_is_told_with_its_exit_code_and_the_end_of_its_log(project: Project) -> None:
    project.stages(only={"words": ["fail:3"]})
    told = Told()
    with pytest.raises(StageError) as error:
        run(*only(project), told, Event())
    text = str(error.value)
    assert text.startswith("only ended with exit code 3. Its log, logs/only.log, ends with:")
    assert "    something is wrong with only" in text.splitlines()
    assert ("line", "something is wrong with only") in told


def test_a_stage_that_takes_too_long_is_stopped_and_says_so(project: Project) -> None:
    project.stages(only={"words": ["wait:never"], "meta": {"flow": {"timeout": "2s"}}})
    stage, site = only(project)
    with pytest.raises(StageError, match="took longer than its 2 s"):
        run(stage, site, Told(), Event())
    with site.slots.take("job", 1, Event()) as (taken, _):
        assert taken == 0
    begun = project.root / "only.pid"  # where the machine is busy the program may not even have begun
    assert not (begun.exists() and lives(int(begun.read_text())))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small disk cannot be mounted here: {error}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("place", ["cache", "workspace"])
def test_a_full_disk_is_named_and_what_is_finished_is_kept(project: Project, small_disk: Path, place: str) -> None:
    if place == "cache":
        project.dvc("cache", "dir", "--quiet", str(small_disk / "cache"))
    else:
        project = Project(Path(shutil.copytree(project.root, small_disk / "project")))
        project.dvc("cache", "dir", "--quiet", str(small_disk.parent / "cache"))
    project.stages(
        fine={}, large={"cmd": "mkdir -p out && head -c 3000000 /dev/zero > out/large", "deps": ["out/fine"]}
    )
    fine, large = load(project.root)
    site = Site(project.root, jobs=1)
    assert run(fine, site, Told(), Event()) == "ran"
    with pytest.raises(StageError, match="The disk is full: free some space"):
        run(large, site, Told(), Event())

    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert run(large, site, Told(), Event()) == "ran"
    assert run(fine, site, Told(), Event()) == "unchanged"
    assert "up to date" in project.dvc("status")
    assert (project.root / "out/large").read_bytes() == bytes(3000000)


def test_a_stopped_flow_leaves_no_process_of_the_stage_which_held_its_slots_until_then(project: Project) -> None:
    project.stages(only={"words": ["wait:go"], "meta": {"flow": {"resource": "gpu"}}})
    (stage,), stopping, held = load(project.root), Event(), set()
    with (project.root / "flow.lock").open("w") as lock:
        site = Site(project.root, jobs=1, gpus=["5"], held=[lock.fileno()])

        def stop() -> None:
            project.pid("only")
            dvc = psutil.Process(int(site.holder(stage).read_text().removeprefix("stage ")))
            held.update(Path(file.path).name for file in dvc.open_files())
            stopping.set()

        Thread(target=stop).start()
        with pytest.raises(StoppedError):
            run(stage, site, Told(), stopping)
    assert held >= {"flow.lock", "gpu-0.lock", "job-0.lock"}
    assert not lives(project.pid("only"))
    (project.root / "go").touch()
    assert run(*only(project), Told(), Event()) == "ran"


def test_what_a_killed_dvc_leaves_running_is_stopped_before_the_stage_runs_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_module, "GRACE", 0.4)
    project.stages(only={"words": ["wait:go"]})
    stage, site = only(project)
    for file in (site.log(stage), site.holder(stage)):
        file.parent.mkdir(parents=True)
    with site.log(stage).open("ab") as log:
        assert locked(log.fileno())
        command = [sys.executable, "-m", "dvc", "repro", "--single-item", "only"]
        dvc = subprocess.Popen(command, cwd=project.root, stdout=log, env=environment(), start_new_session=True)
    site.holder(stage).write_text(f"stage {dvc.pid}")
    orphan = project.pid("only")
    dvc.kill()
    dvc.wait()
    assert lives(orphan)
    (project.root / "only.pid").unlink()
    told = Told()
    Thread(target=lambda: (project.pid("only"), (project.root / "go").touch())).start()
    assert run(stage, site, told, Event()) == "ran"
    assert ("state", "running elsewhere") in told
    assert not lives(orphan)
    assert project.runs() == ["only", "only"]


def test_a_stage_waits_for_a_dvc_that_someone_started_by_hand(project: Project) -> None:
    project.stages(only={"words": ["wait:go"]})
    stage, site = only(project)
    other = subprocess.Popen([sys.executable, "-m", "dvc", "repro", "--quiet"], cwd=project.root, env=environment())
    project.pid("only")
    told = Told()

    def tell(kind: str, text: str) -> None:
        told(kind, text)
        if text == "waiting for another dvc":
            (project.root / "go").touch()

    assert run(stage, site, tell, Event()) == "unchanged"
    assert other.wait() == 0
    assert ("state", "waiting for another dvc") in told
    assert project.runs() == ["only"]


def test_paths_that_dvc_holds_for_a_dead_process_are_set_free(project: Project) -> None:
    project.stages(only={})
    stage, site = only(project)
    # A process that has the number of a dvc that was killed.
    later = subprocess.Popen(["sleep", "100"])
    held = f'{{"write": {{"{project.root}/out/only": {{"pid": {later.pid}, "cmd": "dvc repro"}}}}, "read": {{}}}}'
    (project.root / ".dvc/tmp/rwlock").write_text(held)
    assert run(stage, site, Told(), Event()) == "ran"
    later.kill()
    later.wait()


def test_what_a_dead_process_reads_is_set_free_too_and_what_others_hold_is_not(project: Project) -> None:
    dead, other = {"pid": 2**22 + 1, "cmd": "dvc repro"}, {"pid": os.getpid(), "cmd": "dvc repro"}
    reading = {"/one": [dead], "/both": [dead, other], "/other": [other]}
    (project.root / ".dvc/tmp/rwlock").write_text(json.dumps({"write": {"/a": dead, "/b": other}, "read": reading}))
    forget(project.root, dead["pid"])
    left = json.loads((project.root / ".dvc/tmp/rwlock").read_text())
    assert left == {"write": {"/b": other}, "read": {"/both": [other], "/other": [other]}}


def test_a_table_of_busy_paths_that_a_kill_cut_short_needs_no_hand(project: Project) -> None:
    project.stages(only={})
    (project.root / ".dvc/tmp/rwlock").write_text("")
    stage, site = only(project)
    (project.root / ".dvc/tmp/rwlock").write_text('{"write": {"')
    assert run(stage, site, Told(), Event()) == "ran"


def test_an_entry_of_the_run_cache_that_a_kill_prevented_needs_no_hand(project: Project) -> None:
    project.stages(only={"deps": ["work.py"]})
    assert run(*only(project), Told(), Event()) == "ran"
    (entry,) = project.root.glob(".dvc/cache/runs/*/*/*")
    entry.unlink()  # the folder is there, as DVC makes it first
    (project.root / "dvc.lock").unlink()
    load(project.root)
    assert entry.parent.exists()  # made just now: another checkout may share the cache, and be about to write
    os.utime(entry.parent, (0, 0))
    assert run(*only(project), Told(), Event()) == "ran"
    assert entry.exists()


def test_a_lock_that_a_kill_cut_short_needs_no_hand_and_a_merge_is_left_to_its_author(project: Project) -> None:
    project.stages(only={"deps": ["work.py"]}, other={"deps": ["out/only"]})
    lock = project.root / "dvc.lock"
    for stage in load(project.root):
        run(stage, Site(project.root, jobs=1), Told(), Event())
    whole = lock.read_bytes()
    lock.write_bytes(b"")
    assert [stage.why for stage in load(project.root)] == [("never run",), ("never run",)]
    assert not lock.exists()
    assert [run(s, Site(project.root, jobs=1), Told(), Event()) for s in load(project.root)] == ["restored"] * 2
    assert lock.read_bytes() == whole
    git(project.root, "add", "dvc.lock")
    git(project.root, "commit", "-qm", "ran")
    lock.write_bytes(whole[: len(whole) // 2])
    assert [stage.why for stage in load(project.root)] == [(), ()]
    assert lock.read_bytes() == whole
    assert (project.root / ".scratch/cut/dvc.lock.cut").read_bytes() == whole[: len(whole) // 2]
    lock.write_bytes(whole[:-1])  # as some editors save a file
    load(project.root)
    assert lock.read_bytes() == whole[:-1]
    merged = b"<<<<<<< HEAD\n" + whole
    lock.write_bytes(merged)
    with pytest.raises(InputError):
        load(project.root)
    assert lock.read_bytes() == merged


@pytest.mark.parametrize("left", ["", None])
def test_nor_does_a_stage_that_was_at_work_meanwhile(project: Project, left: str | None) -> None:
    project.stages(only={"words": ["wait:go"]})
    stage, site = only(project)
    made: list[str] = []
    thread = Thread(target=lambda: made.append(run(stage, site, Told(), Event())))
    thread.start()
    project.pid("only")
    table = project.root / ".dvc/tmp/rwlock"
    table.unlink() if left is None else table.write_text(left)
    (project.root / "go").touch()
    thread.join()
    assert made[0] in ("ran", "restored")
    assert load(project.root)[0].why == ()


def test_a_stage_finds_the_python_that_runs_the_flow_and_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    env = environment("3")
    assert env["PATH"] == f"{Path(sys.executable).parent}{os.pathsep}/usr/bin"
    assert env["VIRTUAL_ENV"] == sys.prefix
    assert env["CUDA_VISIBLE_DEVICES"] == "3"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "CUDA_VISIBLE_DEVICES" not in environment()


def test_a_build_gets_a_gpu_for_each_of_its_processes_and_other_stages_one(tmp_path: Path) -> None:
    site, stopped = Site(tmp_path, 2, ("0", "4", "7")), Event()
    stopped.set()
    (tmp_path / "params.yaml").write_text("processes: 2\n")
    with _gpus(Stage("b", "lora:build"), site, Event(), 0.0) as two:
        assert [number for number, _ in two] == [0, 1]
        with _gpus(Stage("g", "lora:grid"), site, Event(), 0.0) as one:
            assert [number for number, _ in one] == [2]
            with pytest.raises(StoppedError), _gpus(Stage("c", "dreambooth:build"), site, stopped, 0.0):
                pass
    (tmp_path / "params.yaml").write_text("processes: 8\n")
    with _gpus(Stage("b", "lora:build"), site, Event(), 0.0) as every:
        assert [number for number, _ in every] == [0, 1, 2]


def test_a_log_is_told_line_by_line_and_a_progress_bar_as_it_is_now(tmp_path: Path) -> None:
    log, told = tmp_path / "log", Told()
    tail = Tail(log, 0)
    for text in ("one\ntw", "o\r\n 10%\r 20%", "\r 100%\nlast é"):
        with log.open("a") as file:
            file.write(text)
        tail.follow(told)
    lines = [("line", "one"), ("glimpse", "tw"), ("line", "two"), ("glimpse", " 20%"), ("line", " 100%")]
    assert told == [*lines, ("glimpse", "last é")]
    assert list(tail.last) == ["one", "two", " 100%"]
    log.write_text("new\n")  # it was emptied
    tail.follow(told)
    assert told[-1] == ("line", "new")
    assert tail.offset == 4
