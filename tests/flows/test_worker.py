"""A worker: what it is started with, and what it does for one stage. Without Prefect's server."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from etude.core.errors import InputError
from flows import machines, server
from flows import worker as command
from flows.plan import Stage
from flows.stage import StageError
from tests.flows.conftest import Calls, Git, Trees

STAGE = Stage("x.yaml:build", "x:build", resource="gpu")


@pytest.mark.parametrize(
    ("there", "asked"),
    [
        (["commit"] * 2, ["cat-file -t abc (may fail)"] * 2),
        (["", "commit"], ["cat-file -t abc (may fail)", "fetch --quiet origin", "cat-file -t abc (may fail)"]),
    ],
)
def test_a_worker_fetches_a_commit_only_where_its_clone_lacks_it(
    there: list[str], asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = Git(cat_file=there)
    monkeypatch.setattr(machines, "git", git)
    machines.fetch(tmp_path, "abc")
    assert git.asked == asked


def test_a_commit_that_the_origin_lacks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "git", Git())
    with pytest.raises(InputError, match=r"^0123456789: this commit is not in the origin of the worker's clone"):
        machines.fetch(tmp_path, "0123456789abc")


def test_what_was_made_is_pushed_with_its_entry_in_the_run_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dvc = Calls(SimpleNamespace(returncode=0))
    monkeypatch.setattr(machines, "dvc", dvc)
    machines.push(tmp_path, ["a", "b"])
    machines.collect(tmp_path, [])
    machines.collect(tmp_path, ["a", "b"])
    push, repro = ("push", "--quiet", "--run-cache"), ("repro", "--quiet", "--pull")
    assert dvc == [(tmp_path, *push, "a", "b"), (tmp_path, *repro, "a", "b")]
    dvc.result = SimpleNamespace(returncode=1, stderr=" it is full\n")
    with pytest.raises(InputError, match="the DVC remote: `dvc push` says: it is full. Next: check that this machine"):
        machines.push(tmp_path, ["a"])
    with pytest.raises(InputError, match="`dvc repro --pull` says: it is full. Next: run the flow again"):
        machines.collect(tmp_path, ["a"])


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A worker whose trees are plain folders; what it did."""
    did: dict[str, Any] = {"run": Calls("ran"), "push": Calls(), "fetch": Calls(), "loads": Calls()}
    did["trees"] = Trees(tmp_path / "trees")
    environment = {machines.CLONE: str(tmp_path / "clone"), machines.JOBS: "3", machines.GPUS: "5,,6"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    did["loads"].result = [Stage("x.yaml:first", "x:first"), STAGE, Stage("x.yaml:build@b", "x:build@b")]
    monkeypatch.setattr(machines, "pulse", lambda: nullcontext("tell"))
    monkeypatch.setattr(machines, "worktree", did["trees"].make)
    monkeypatch.setattr(machines.plan, "load", did["loads"])
    for name in ("run", "push", "fetch"):
        monkeypatch.setattr(machines, name, did[name])
    return did


def test_a_worker_runs_one_stage_of_a_commit_with_what_its_machine_has(worker: dict[str, Any], tmp_path: Path) -> None:
    state = machines.carry_out.fn("abc", STAGE.name)
    assert (state.is_completed(), state.message) == (True, "ran")
    clone, tree = tmp_path / "clone", tmp_path / "trees/tree0"
    assert worker["fetch"] == [(clone, "abc")]
    assert worker["trees"].asked == [(clone, "abc", {"inputs": False})]
    assert worker["trees"].open == 0
    assert worker["loads"] == [(tree, [STAGE.name])]
    ((stage, site, tell, stopping),) = worker["run"]
    assert (stage, tell, stopping.is_set()) == (STAGE, "tell", False)
    assert (site.root, site.jobs, site.gpus, site.held, site.pull) == (tree, 3, ["5", "6"], [100], True)
    assert (site.force, site.slots.folder) == (False, clone / ".scratch/slots")
    assert worker["push"] == [(tree, [STAGE.name])]


@pytest.mark.parametrize("error", [StageError("it broke"), InputError("the remote", "is full", "free some")])
def test_a_worker_says_what_went_wrong_and_where(
    error: Exception, worker: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(machines, "push", fail)
    state = machines.carry_out.fn("abc", STAGE.name)
    assert state.is_failed()
    assert state.message == f"{error}\n    on {os.uname().nodename}"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Calls]]:
    """What starting a worker calls; its process ends with code 3."""
    process = SimpleNamespace(wait=lambda: 3, send_signal=Calls())
    did = {
        "process": Calls(process),
        "connect": Calls(),
        "pools": Calls(),
        "ready": Calls(),
        "signals": process.send_signal,
    }
    did["connect"].result = did["ready"]
    monkeypatch.setattr(server, "connect", did["connect"])
    monkeypatch.setattr(machines, "make_pools", did["pools"])
    monkeypatch.setattr(command.subprocess, "Popen", did["process"])
    monkeypatch.setenv("PREFECT_API_URL", "http://there/api")
    for name in ("ETUDE_CLONE", "ETUDE_JOBS", "ETUDE_GPUS", "PREFECT_WORKER_QUERY_SECONDS"):
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", "/mine")
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield did
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_worker_takes_stages_of_its_pool_as_many_as_it_has_cores_or_gpus(
    started: dict[str, Calls], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "cores", lambda: 6)
    asked = []
    for pool, limit, gpus in (("cpu", None, []), ("gpu", None, ["4", "5"]), ("gpu", 1, ["4", "5"]), ("cpu", 2, [])):
        assert command.work(tmp_path, pool, limit, gpus) == 3
        asked.append((os.environ["ETUDE_JOBS"], os.environ["ETUDE_GPUS"]))
    assert asked == [("6", ""), ("2", "4,5"), ("1", "4,5"), ("2", "")]
    assert os.environ["ETUDE_CLONE"] == str(tmp_path)
    assert os.environ["PYTHONPATH"].startswith(f"{command.CODE}{os.pathsep}")
    assert os.environ["PYTHONPATH"].endswith(f"{os.pathsep}/mine")
    assert os.environ["PREFECT_WORKER_QUERY_SECONDS"] == "2"
    words = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "gpu", "--type", "process", "--limit", "1"]
    assert started["process"][2] == (words, {"cwd": tmp_path, "start_new_session": True})
    assert started["connect"] == [(tmp_path,)] * 4
    assert len(started["pools"]) == len(started["ready"]) == 4
    assert (
        capsys.readouterr().out.splitlines()[2] == "takes stages of gpu, 1 at once  (Ctrl-C: no more, then it leaves)"
    )


def test_a_worker_leaves_when_it_is_told_to_and_keeps_how_often_a_user_wants_it_to_ask(
    started: dict[str, Calls], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_WORKER_QUERY_SECONDS", "9")
    command.work(tmp_path, "cpu", 1, [])
    assert os.environ["PREFECT_WORKER_QUERY_SECONDS"] == "9"
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.raise_signal(number)
    assert started["signals"] == [(signal.SIGINT,), (signal.SIGTERM,)]


def test_a_worker_that_could_take_nothing_is_refused_before_it_starts(
    started: dict[str, Calls], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"tpu: there is no such pool. Next: give cpu or gpu"):
        command.work(tmp_path, "tpu", 1, ["0"])
    with pytest.raises(InputError, match=r"gpu: no GPU was found on this machine"):
        command.work(tmp_path, "gpu", 1, [])
    monkeypatch.delenv("PREFECT_API_URL")
    with pytest.raises(
        InputError, match=r"PREFECT_API_URL: is not set, so the worker does not know its Prefect server"
    ):
        command.work(tmp_path, "cpu", 1, [])
    assert started["process"] == started["connect"] == []


def test_the_command_of_a_worker_takes_its_gpus_only_for_their_pool_and_ends_with_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Calls(3)
    monkeypatch.setattr(command, "work", work)
    monkeypatch.setattr(command, "find_root", lambda _: tmp_path)
    monkeypatch.setattr(command, "devices", lambda count: ["4", "5"][:count])
    app = typer.Typer()
    app.command()(command.main)
    for words in ([], ["gpu"], ["gpu", "--limit", "1", "--gpus", "0"]):
        assert CliRunner().invoke(app, words).exit_code == 3
    assert work == [
        (tmp_path, "cpu", None, []),
        (tmp_path, "gpu", None, ["4", "5"]),
        (tmp_path, "gpu", 1, []),
    ]
    for words in (["--limit", "0"], ["--gpus", "-1"]):
        assert CliRunner().invoke(app, words).exit_code == 2
    assert len(work) == 3
