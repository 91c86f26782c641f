"""The same graph on several machines: workers with clones of their own, and one DVC remote that they share."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import pytest
from httpx import ConnectError
from prefect.states import Completed

from etude.core.errors import InputError
from etude.watch.holders import lives
from flows import durations, machines, verdict
from flows.board import Board, use
from flows.machines import share, shared_commit
from flows.plan import Stage, load
from flows.stage import Site, StageError
from flows.work import Work
from tests.flows.conftest import ROOT, Project, wait_until
from tests.shipped import git

# Notes its start outside of every clone, waits where it is told to, and makes a number from those that it reads.
STEP = """
import os, pathlib, sys, time
name, *deps = sys.argv[1:]
told = pathlib.Path({told!r})
with open(told / "runs", "a") as runs:
    runs.write(name + "\\n")
(told / ("pid-" + name)).write_text(str(os.getpid()))
(told / ("device-" + name)).write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
while (told / ("hold-" + name)).exists():
    time.sleep(0.05)
pathlib.Path("out").mkdir(exist_ok=True)
text = pathlib.Path("in.txt").read_text() + "".join(pathlib.Path("out", dep).read_text() for dep in deps)
pathlib.Path("out", name).write_text(name + " of " + text)
"""
GPU = {"meta": {"flow": {"resource": "gpu"}}}
GRAPH = {"a": [], "b": ["a"], "c": ["a"], "d": [], "end": ["b", "c", "d"]}


@pytest.fixture
def shared(project: Project, tmp_path: Path) -> Project:
    """A repository with a graph, an input that DVC tracks, an origin and a remote."""
    told = tmp_path / "told"
    told.mkdir()
    (project.root / "step.py").write_text(STEP.format(told=str(told)))
    stages = {}
    for name, deps in GRAPH.items():
        reads = ["in.txt", "step.py", *(f"out/{dep}" for dep in deps)]
        stages[name] = {"cmd": " ".join(["python3 step.py", name, *deps]), "deps": reads}
    project.stages(**stages)
    (project.root / "in.txt").write_text("input")
    project.dvc("add", "--quiet", "in.txt")
    project.dvc("remote", "add", "--quiet", "--default", "shared", str(tmp_path / "remote"))
    git(project.root, "add", ".")
    git(project.root, "commit", "-qm", "graph")
    git(tmp_path, "clone", "--quiet", "--bare", str(project.root), "origin.git")
    git(project.root, "remote", "add", "origin", str(tmp_path / "origin.git"))
    git(project.root, "fetch", "--quiet", "origin")
    return project


@pytest.fixture
def start_worker(prefect_server: str, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Clones the origin under a name and starts a worker there: for pool cpu, or as `flows.worker` is told."""
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, *pool: str) -> subprocess.Popen[bytes]:
        git(tmp_path, "clone", "--quiet", str(tmp_path / "origin.git"), name)
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": prefect_server}
        command = [sys.executable, "-m", "flows.worker", *(pool or ["cpu"]), "--limit", "1"]
        with (tmp_path / f"{name}.log").open("wb") as log:
            started.append(subprocess.Popen(command, cwd=tmp_path / name, env=env, stdout=log, stderr=log))
        return started[-1]

    yield start
    for worker in started:
        kill_all(worker.pid)
        worker.wait()


def kill_all(pid: int) -> None:
    """End a machine: a process and all that it started."""
    children = [file.read_text().split() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    for child in chain(*children):
        kill_all(int(child))


def runs(tmp_path: Path) -> list[str]:
    file = tmp_path / "told/runs"
    return sorted(file.read_text().split()) if file.exists() else []


def test_a_commit_is_fetched_where_a_clone_lacks_it_and_else_refused(tmp_path: Path) -> None:
    for name in ("origin", "clone"):
        git(tmp_path, "clone" if name == "clone" else "init", "--quiet", *(["origin"] if name == "clone" else []), name)
    git(tmp_path / "origin", "commit", "--quiet", "--allow-empty", "-m", "one")
    commit = git(tmp_path / "origin", "rev-parse", "HEAD").strip()
    machines.fetch(tmp_path / "clone", commit)
    assert git(tmp_path / "clone", "cat-file", "-t", commit).strip() == "commit"
    with pytest.raises(InputError, match=r"^0000000000: this commit is not in the origin of the worker's clone"):
        machines.fetch(tmp_path / "clone", "0" * 40)


def test_what_is_not_committed_or_not_pushed_is_refused_by_name(shared: Project) -> None:
    assert len(shared_commit(shared.root)) == 40
    (shared.root / "new.txt").write_text("new")
    (shared.root / "step.py").write_text("edited")
    with pytest.raises(InputError, match=r"step\.py, new\.txt: not committed"):
        shared_commit(shared.root)
    git(shared.root, "add", ".")
    git(shared.root, "commit", "-qm", "edit")
    with pytest.raises(InputError, match="no remote branch has this commit"):
        shared_commit(shared.root)


def test_an_edited_input_and_a_remote_that_is_missing_or_out_of_reach_are_refused(shared: Project) -> None:
    (shared.root / "in.txt").write_text("edited")
    with pytest.raises(InputError, match=r"in\.txt: changed and not committed"):
        share(shared.root, load(shared.root))
    (shared.root / "in.txt").write_text("input")
    shared.dvc("repro", "--quiet", "a")
    shared.dvc("remote", "modify", "--quiet", "shared", "url", str(shared.root / "dvc.yaml/below-a-file"))
    with pytest.raises(InputError, match=r"the DVC remote: `dvc push` says: .*check that this machine can write to it"):
        share(shared.root, load(shared.root))
    shared.dvc("remote", "remove", "shared")
    with pytest.raises(InputError, match="the DVC remote: is not set"):
        share(shared.root, load(shared.root))


@pytest.mark.slow  # three workers, a process for each stage
def test_workers_with_their_own_clones_finish_the_graph_even_when_one_is_lost(
    shared: Project,
    tmp_path: Path,
    start_worker: Callable[..., subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from flows.graph import repro

    alone = Project(Path(shutil.copytree(shared.root, tmp_path / "alone")))
    alone.dvc("repro", "--quiet")
    (tmp_path / "told/runs").unlink()
    monkeypatch.setattr(machines, "LOST", 20.0)
    (tmp_path / "told/hold-d").touch()
    workers = [start_worker("one"), start_worker("two")]

    def lose_one() -> None:
        wait_until(lambda: "d" in runs(tmp_path))
        logs = list((tmp_path / "one").glob(".scratch/worktrees/*/logs/d.log"))
        kill_all(workers[0 if logs else 1].pid)
        (tmp_path / "told/hold-d").unlink()
        start_worker("three")

    Thread(target=lose_one, daemon=True).start()
    board = Board()
    use(board)
    state = repro(str(shared.root), pools=True, return_state=True)
    assert state.is_completed(), state.message
    assert runs(tmp_path) == ["a", "b", "c", "d", "d", "end"]  # d twice: its first machine was lost
    assert verdict.read_locks(shared.root) == verdict.read_locks(alone.root)
    assert (shared.root / "out/end").read_text() == (alone.root / "out/end").read_text()
    assert "up to date" in shared.dvc("status")


@pytest.mark.slow  # two workers, a process for each stage
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_flow_stops_what_workers_do_and_the_next_run_goes_on_with_gpu_stages_in_their_own_pool(
    shared: Project,
    tmp_path: Path,
    prefect_server: str,
    start_worker: Callable[..., subprocess.Popen[bytes]],
    number: signal.Signals,
) -> None:
    (shared.root / "dvc.yaml").unlink()
    shared.stages(
        a={"cmd": "python3 step.py a", "deps": ["in.txt", "step.py"]},
        b={"cmd": "python3 step.py b a", "deps": ["in.txt", "step.py", "out/a"], **GPU},
    )
    git(shared.root, "commit", "-qam", "two stages")
    git(shared.root, "push", "--quiet", "origin", "HEAD")
    start_worker("plain")
    start_worker("fast", "gpu", "--gpus", "1")
    (tmp_path / "told/hold-b").touch()
    flow = shared.flow("--pools", PREFECT_API_URL=prefect_server)
    begun = tmp_path / "told/pid-b"
    wait_until(lambda: begun.exists() and begun.read_text())
    flow.send_signal(number)
    text, _ = flow.communicate()
    assert flow.returncode in (-number, 130)
    assert "stopped: the next run goes on from here" in text or number == signal.SIGTERM
    wait_until(lambda: not lives(int(begun.read_text())))

    (tmp_path / "told/hold-b").unlink()
    again = shared.flow("--pools", PREFECT_API_URL=prefect_server)
    text, _ = again.communicate()
    assert again.returncode == 0, text
    assert runs(tmp_path) == ["a", "b", "b"]
    assert (tmp_path / "told/device-b").read_text() == "0"
    assert "up to date" in shared.dvc("status")


def test_a_stage_on_a_worker_takes_as_long_as_it_ran_there(tmp_path: Path, prefect_server: str) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.states import Running

    with get_client(sync_client=True) as client:
        begun = client.create_flow_run(flow(lambda: None, name="stage"), state=Running())

    def end() -> None:
        time.sleep(2.5)  # several looks
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(begun.id, Completed(message="ran"))

    def carry(stage: Stage, site: Site, tell: Callable[[str, str], None], stopping: Event, urgency: float) -> str:
        Thread(target=end).start()
        state = machines.follow(begun, tell, stopping)
        assert state
        return str(state.message)

    stage = Stage("a", "a", why=("never run",))
    work = Work(Site(tmp_path, 1), [stage], Board(), carry)
    work.board.begin(work.stages)
    work.do(stage, [], str)
    assert (durations.recall(tmp_path, stage) or 0) >= 2.5


def test_a_worker_gives_signs_of_life_from_its_fetch_to_its_push(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    @contextmanager
    def pulse() -> Iterator[Callable[[str, str], None]]:
        seen.append("begins")
        yield lambda *_: None
        seen.append("ends")

    project.stages(one={})
    git(project.root, "add", ".")
    git(project.root, "commit", "-qm", "one stage")
    for name, value in ((machines.CLONE, str(project.root)), (machines.JOBS, "1"), (machines.GPUS, "")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(machines, "pulse", pulse)
    monkeypatch.setattr(machines, "fetch", lambda *_: seen.append("fetch"))
    monkeypatch.setattr(machines, "push", lambda *_: seen.append("push"))
    state = machines.carry_out.fn(git(project.root, "rev-parse", "HEAD").strip(), "one")
    assert state.message == "ran"
    assert seen == ["begins", "fetch", "push", "ends"]


def test_a_sign_of_life_shows_the_last_line_of_the_stage_and_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    beats: list[dict[str, Any]] = []
    unset: list[str] = []
    monkeypatch.setattr(machines, "BEAT", 0.01)
    monkeypatch.setattr(machines, "flow_run", SimpleNamespace(id="a-b"))
    monkeypatch.setattr(machines, "get_run_logger", lambda: SimpleNamespace(info=logged.append))
    variable = SimpleNamespace(
        set=lambda name, value, overwrite: beats.append({name: value["line"]}), unset=unset.append
    )
    monkeypatch.setattr(machines, "Variable", variable)
    with machines.pulse() as tell:
        tell("line", " step 1 ")
        tell("line", "")
        tell("glimpse", "50 %")
        tell("state", "running")
        count = len(beats)
        wait_until(lambda: len(beats) > count + 1)
    assert beats[-1] == {"alive_a_b": "50 %"}
    assert logged == [" step 1 "]
    assert unset == ["alive_a_b"]


def test_a_worker_without_a_clone_says_how_to_start_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(machines.CLONE, raising=False)
    state = machines.carry_out.fn("commit", "stage")
    assert state.is_failed()
    assert "has no clone: start it with `etude worker`" in (state.message or "")


def test_a_server_that_is_away_for_a_moment_fails_no_stage_and_one_that_stays_away_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("shared_commit", "share", "make_pools", "_begin"):
        monkeypatch.setattr(machines, name, lambda *_: None)
    monkeypatch.setattr(machines, "BEAT", 0.0)
    ends = [ConnectError("away"), None, Completed(message="ran"), *[ConnectError("away")] * 3]

    def follow(*_: object) -> object:
        end = ends.pop(0)
        if isinstance(end, ConnectError):
            raise end
        return end

    monkeypatch.setattr(machines, "follow", follow)
    given = Stage("a", "a"), Site(tmp_path, 1), lambda *_: None, Event(), 0.0
    send = machines.carrier(tmp_path, [])
    assert send(*given) == "ran"
    with pytest.raises(StageError, match="a: 3 tries failed; in the last, the Prefect server does not answer.*Next: "):
        send(*given)
