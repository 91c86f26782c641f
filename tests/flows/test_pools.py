"""What a flow with workers asks of git, DVC and Prefect, one after the other: without a worker or a server."""

from __future__ import annotations

import os
import threading
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from httpx import ConnectError
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectAlreadyExists
from prefect.states import Completed, Crashed, Failed, Pending, Running

from etude.core.errors import InputError
from flows import machines
from flows.plan import Stage
from flows.slots import StoppedError
from flows.stage import Site, StageError
from tests.flows.conftest import Calls, Clock, Git, Waits, wait_until

STAGE = Stage("x.yaml:build", "x:build", resource="gpu")


def test_only_a_commit_with_nothing_beside_it_is_shared_but_for_the_locks_that_runs_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = Git(status=" M dvc.lock\n?? pipelines/lora/dvc.lock", rev_parse="0123456789abc", branch="origin/main")
    monkeypatch.setattr(machines, "git", git)
    assert machines.shared_commit(tmp_path) == "0123456789abc"
    assert git.asked == [
        "status --porcelain --untracked-files=all",
        "rev-parse HEAD",
        "branch --remotes --contains 0123456789abc (may fail)",
    ]
    git.answers["branch"] = ""
    with pytest.raises(InputError, match=r"^0123456789: no remote branch has this commit.* Next: `git push` it"):
        machines.shared_commit(tmp_path)


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        ("M  a.py\n?? b.txt", "a.py, b.txt"),
        ("R  old.py -> new.py", "new.py"),
        ("\n".join(f"?? f{number}" for number in range(5)), "f0, f1, f2, f3, f4"),
        ("\n".join(f"?? f{number}" for number in range(6)), "f0, f1, f2, f3, f4 and 1 more"),
        ("\n".join(f"?? f{number}" for number in range(7)), "f0, f1, f2, f3, f4 and 2 more"),
        ("M my.dvc.lock", "my.dvc.lock"),
    ],
)
def test_what_is_not_committed_is_named_the_first_five(
    status: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "git", Git(status=status))
    with pytest.raises(InputError, match=rf"^{shown}: not committed, so workers would not have it"):
        machines.shared_commit(tmp_path)


@pytest.mark.parametrize(
    ("remote", "fault"),
    [
        ("", "is not set, and workers share"),
        ("https://x/y", "https://x/y cannot keep a run-cache"),
        ("http://x", "http://x cannot keep a run-cache"),
    ],
)
def test_a_remote_without_a_run_cache_is_refused(
    remote: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines.repository, "remote", lambda _: remote)
    with pytest.raises(InputError, match=rf"^the DVC remote: {fault}"):
        machines.share(tmp_path, [])


def test_all_that_is_up_to_date_is_pushed_before_workers_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed = Calls()
    monkeypatch.setattr(machines.repository, "remote", lambda _: "s3://bucket")
    monkeypatch.setattr(machines, "push", pushed)
    done, photos = Stage("done", "done", outs=("out",)), Stage("photos.dvc", "photos.dvc", outs=("photos",))
    todo = Stage("todo", "todo", why=("code modified",), outs=("other",))
    machines.share(tmp_path, [done, todo, Stage("check", "check"), photos])
    assert pushed == [(tmp_path, ["done", "photos.dvc"])]
    pushed.clear()
    machines.share(tmp_path, [todo, Stage("lost.dvc", "lost.dvc", why=("lost missing",), outs=("lost",))])
    assert pushed == []
    edited = Stage("photos.dvc", "photos.dvc", why=("photos modified",), outs=("photos",))
    with pytest.raises(InputError, match=r"photos: changed and not committed. Next: `dvc add photos`, and commit it"):
        machines.share(tmp_path, [done, edited])


class Client:
    """Prefect's client: `runs` are the answers to each look at a run; what is asked of it is noted."""

    def __init__(self, *runs: Any, same: list[str] | None = None, taken: tuple[str, ...] = ()) -> None:
        self.runs, self.same, self.taken = list(runs), same or [], taken
        self.states, self.pools, self.filters = list[Any](), list[Any](), Calls()

    def read_flow_run(self, run_id: str) -> Any:
        assert run_id == "a-b"
        state, *seconds = self.runs.pop(0)
        return SimpleNamespace(state=state, total_run_time=timedelta(seconds=sum(seconds)))

    def set_flow_run_state(self, run_id: str, state: Any) -> None:
        self.states.append((run_id, state.type, state.message))

    def read_flow_runs(self, **asked: Any) -> list[str]:
        self.filters(**asked)
        return self.same

    def create_work_pool(self, pool: Any) -> None:
        self.pools.append((pool.name, pool.type))
        if pool.name in self.taken:
            raise ObjectAlreadyExists(ValueError(pool.name))

    def use(self, monkeypatch: pytest.MonkeyPatch) -> Client:
        monkeypatch.setattr(machines, "get_client", lambda sync_client: nullcontext(self))
        return self


@pytest.mark.parametrize("taken", [(), ("cpu",), ("cpu", "gpu")])
def test_each_pool_is_made_once_and_gets_its_deployment_each_time(
    taken: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, made, applied = Client(taken=taken).use(monkeypatch), Calls(), Calls()

    def from_flow(*given: Any, **named: Any) -> Any:
        made(*given, **named)
        return SimpleNamespace(apply=lambda: applied(given[1]))

    monkeypatch.setattr(machines, "RunnerDeployment", SimpleNamespace(from_flow=from_flow))
    machines.make_pools()
    assert client.pools == [("cpu", "process"), ("gpu", "process")]
    by_module = machines.EntrypointType.MODULE_PATH  # a worker's clone is elsewhere
    wanted = [
        (machines.carry_out, name, {"work_pool_name": name, "entrypoint_type": by_module}) for name in ("cpu", "gpu")
    ]
    assert made == wanted
    assert applied == [("cpu",), ("gpu",)]


def test_a_stage_that_a_worker_has_begun_is_followed_and_else_begun_in_the_pool_of_its_resource(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = Calls("a new run")
    monkeypatch.setattr(machines, "run_deployment", begun)
    client = Client(same=["the run"]).use(monkeypatch)
    assert machines._begin(STAGE, "abc") == "the run"
    assert begun == []
    ((asked,),) = client.filters
    assert asked["limit"] == 1
    assert asked["flow_run_filter"].tags.all_ == ["commit abc", "stage x.yaml:build"]
    living = {StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING}
    assert set(asked["flow_run_filter"].state.type.any_) == living
    client.same = []
    assert machines._begin(STAGE, "abc") == "a new run"
    named = {
        "parameters": {"commit": "abc", "target": "x.yaml:build"},
        "flow_run_name": "x:build",
        "tags": ["commit abc", "stage x.yaml:build"],
        "timeout": 0,
        "as_subflow": False,
    }
    assert begun == [("stage/gpu", named)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(machines, "time", clock)
    return clock


RUN: Any = SimpleNamespace(id="a-b")


def follow(told: Calls, stopping: Event) -> Any:
    return machines.follow(RUN, told, stopping)


def test_a_run_elsewhere_is_told_as_it_beats_and_with_the_time_that_it_took(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats = [None, {"host": "far", "line": "step 1"}, {"host": "far", "line": "step 1"}, {"host": "far", "line": "2"}]
    asked: list[str] = []
    variable = SimpleNamespace(get=lambda name: (asked.append(name), beats.pop(0))[1])
    monkeypatch.setattr(machines, "Variable", variable)
    end = Completed(message="ran")
    looks = [(None,), (Pending(),), *[(Running(),)] * 4, (end, 34.2)]
    client, told = Client(*looks).use(monkeypatch), Calls()
    assert follow(told, Waits(clock)) is end
    running, glimpse = ("state", "running"), "glimpse"
    lines = [running, running, (glimpse, "far: step 1"), running, running, (glimpse, "far: 2"), ("seconds", "34.2")]
    assert told == lines
    assert asked == ["alive_a_b"] * 4
    assert clock.now == pytest.approx(6 * machines.POLL * 10)
    assert client.states == []


def test_a_run_that_failed_has_its_state_and_one_that_crashed_is_lost(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = Failed(message="it broke")
    Client((failed,), (Crashed(),)).use(monkeypatch)
    assert follow(Calls(), Waits(clock)) is failed
    assert follow(Calls(), Waits(clock)) is None


def test_a_stopped_flow_cancels_what_runs_elsewhere(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "Variable", SimpleNamespace(get=lambda _: None))
    client = Client(*[(Running(),)] * 3).use(monkeypatch)
    with pytest.raises(StoppedError):
        follow(Calls(), Waits(clock, at=2 * machines.POLL * 10))
    assert client.states == [("a-b", StateType.CANCELLING, None)]


def test_a_run_that_is_silent_for_too_long_is_marked_lost_and_one_that_waits_is_not(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "Variable", SimpleNamespace(get=lambda _: {"host": "far", "line": ""}))
    looks = 61  # one a second: a minute of silence, as README.md says
    waits = [(Pending(),)] * (2 * looks)
    client = Client(*waits, *[(Running(),)] * looks, (Crashed(),)).use(monkeypatch)
    assert follow(Calls(), Waits(clock)) is None
    assert client.states == []  # LOST has passed since it waited, not since it beat
    client.runs = [*[(Running(),)] * (looks + 1), (Crashed(),)]
    assert follow(Calls(), Waits(clock)) is None
    assert client.states == [("a-b", StateType.CRASHED, "its worker is silent")]
    client.states.clear()
    client.runs = [*[(Running(),)] * (2 * looks + 4), (Crashed(),)]
    follow(Calls(), Waits(clock))
    assert len(client.states) == 2  # the server may not have heard the first


@pytest.fixture
def send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, dict[str, Any]]:
    """The function that lets a worker run a stage, and what it did; `ends` are how its runs end."""
    did: dict[str, Any] = {"order": [], "begun": Calls("run"), "ends": []}
    monkeypatch.setattr(machines, "shared_commit", lambda root: did["order"].append(("commit of", root)) or "abc")
    monkeypatch.setattr(machines, "share", lambda *given: did["order"].append(("share", *given)))
    monkeypatch.setattr(machines, "make_pools", lambda: did["order"].append("pools"))
    monkeypatch.setattr(machines, "_begin", did["begun"])
    monkeypatch.setattr(machines, "follow", lambda *_: did["ends"].pop(0))
    return machines.carrier(tmp_path, [STAGE]), did


def test_workers_begin_once_commit_results_and_pools_are_there(
    send: tuple[Any, dict[str, Any]], tmp_path: Path
) -> None:
    carry, did = send
    assert did["order"] == [("commit of", tmp_path), ("share", tmp_path, [STAGE]), "pools"]
    did["ends"] = [Completed(message="restored")]
    told = Calls()
    assert carry(STAGE, Site(tmp_path, 1), told, Event(), 3.0) == "restored"
    assert did["begun"] == [(STAGE, "abc")]
    assert told == [("state", "queued")]
    assert carry(Stage("in.dvc", "in.dvc"), Site(tmp_path, 1), told, Event(), 0.0) == "unchanged"
    assert len(did["begun"]) == 1


def test_a_failed_stage_is_not_begun_again_and_one_whose_worker_is_lost_is(
    send: tuple[Any, dict[str, Any]], tmp_path: Path
) -> None:
    carry, did = send
    given = STAGE, Site(tmp_path, 1), Calls(), Event(), 0.0
    for state, said in ((Failed(message="it broke"), "it broke"), (Failed(name="Gone"), "x:build ended Gone")):
        did["ends"] = [state]
        with pytest.raises(StageError, match=f"^{said}$"):
            carry(*given)
    assert len(did["begun"]) == 2
    did["ends"] = [None] * 3  # as README.md says
    with pytest.raises(StageError, match="^x:build: 3 tries failed; in the last, its worker stopped without an answer"):
        carry(*given)
    assert len(did["begun"]) == 2 + 3


@pytest.fixture
def signs(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The signs of life that a flow run a-b gives to Prefect's server."""
    signs = Calls()
    monkeypatch.setattr(machines, "flow_run", SimpleNamespace(id="a-b"))
    monkeypatch.setattr(machines, "get_run_logger", lambda: SimpleNamespace(info=str))
    monkeypatch.setattr(machines, "Variable", SimpleNamespace(set=signs, unset=lambda _: None))
    return signs


def test_a_worker_is_heard_at_once_and_no_two_of_its_signs_of_life_are_alike(
    signs: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "BEAT", 3600.0)
    with machines.pulse():
        wait_until(lambda: signs)
    monkeypatch.setattr(machines, "BEAT", 0.01)
    signs.clear()
    with machines.pulse() as tell:
        tell("line", "x" * 300 + "y" * 200)
        count = len(signs)
        wait_until(lambda: len(signs) > count + 3)
    beats = [beat for _, beat, _ in signs]
    assert {(name, str(named)) for name, _, named in signs} == {("alive_a_b", "{'overwrite': True}")}
    assert len({beat["beat"] for beat in beats}) == len(beats)  # `follow` takes an equal one for silence
    assert beats[-1] == {"beat": len(beats), "line": "y" * 200, "host": os.uname().nodename}
    assert not [thread for thread in threading.enumerate() if "beat" in thread.name]


def test_a_flow_that_is_stopped_while_the_server_is_away_does_not_try_again(
    send: tuple[Any, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry, did = send

    def away(*_: object) -> None:
        raise ConnectError("refused")

    monkeypatch.setattr(machines, "follow", away)
    stopping = Event()
    stopping.set()
    with pytest.raises(StoppedError):
        carry(STAGE, Site(tmp_path, 1), Calls(), stopping, 0.0)
    assert len(did["begun"]) == 1
