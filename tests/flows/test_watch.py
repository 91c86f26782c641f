"""The lines that `etude serve` prints: runs that begin and end, errors of the server, and what is due too late."""

from __future__ import annotations

import signal
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from httpx import ConnectError
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelled, Cancelling, Completed, Crashed, Failed, Running, State

from etude.core.errors import InputError
from flows import watch
from flows.watch import OVERTAKEN, Reports, Runs, Serving, errors
from tests.flows.conftest import Calls

HERE, OTHER = UUID(int=1), UUID(int=2)
NAMES = {HERE: "nightly", OTHER: "changed"}


def run(number: int, state: State[Any] | None, deployment: UUID = HERE, seconds: float = 61.0) -> Any:
    took = timedelta(seconds=seconds)
    return SimpleNamespace(id=UUID(int=100 + number), state=state, deployment_id=deployment, total_run_time=took)


class Client:
    """Prefect's client: it has these runs, and those that wait."""

    def __init__(self, *runs: Any, waiting: tuple[Any, ...] = ()) -> None:
        self.runs, self.waiting, self.asked, self.states = list(runs), waiting, Calls(), Calls()

    def read_flow_runs(self, flow_run_filter: Any, **asked: Any) -> list[Any]:
        self.asked(set(flow_run_filter.state.type.any_), flow_run_filter.next_scheduled_start_time, **asked)
        return list(self.waiting if flow_run_filter.next_scheduled_start_time else self.runs)

    def set_flow_run_state(self, run_id: UUID, state: Any) -> None:
        self.states(run_id, state.type, state.message)

    def use(self, monkeypatch: pytest.MonkeyPatch) -> Client:
        monkeypatch.setattr(watch, "get_client", lambda sync_client: nullcontext(self))
        return self


def at(state: State[Any], hour: int) -> State[Any]:
    """The state as it was entered at that hour."""
    state.timestamp = datetime(2030, 1, 2, hour, 30, 5, tzinfo=UTC)  # type: ignore[assignment]
    return state


@pytest.fixture
def runs() -> Runs:
    runs = Runs(NAMES, "Europe/Zurich")
    runs.begin = datetime(2030, 1, 2, 8, tzinfo=UTC)
    return runs


def test_each_run_is_told_as_it_begins_and_as_it_ends_once(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    late, early = run(1, at(Running(), 10), OTHER), run(0, at(Running(), 9))
    client = Client(late, early).use(monkeypatch)
    began = ["2030-01-02 10:30:05 nightly: began", "2030-01-02 11:30:05 changed: began"]
    assert list(runs.look()) == began
    assert list(runs.look()) == []
    early.state = at(Completed(message="1 ran"), 11)
    late.state = at(Failed(), 11)
    assert list(runs.look()) == [
        "2030-01-02 12:30:05 nightly: completed in 1:01 min: 1 ran",
        "2030-01-02 12:30:05 changed: failed in 1:01 min",
    ]
    assert list(runs.look()) == []
    early.state = at(Cancelling(), 12)
    assert list(runs.look()) == ["2030-01-02 13:30:05 nightly: cancelling"]
    kinds, _, named = client.asked[0]
    assert kinds == set(StateType) - {StateType.SCHEDULED, StateType.PENDING}
    assert set(named["deployment_filter"].id.any_) == set(NAMES)
    assert (named["sort"].value, named["limit"]) == ("EXPECTED_START_TIME_DESC", 50)


def test_what_ended_before_serving_or_gave_way_to_a_later_run_is_not_told(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, overtaken = run(0, at(Completed(), 7)), run(1, at(Cancelled(message=OVERTAKEN), 9))
    exactly = run(3, at(Crashed(name="Lost"), 8))
    exactly.state.timestamp = runs.begin
    Client(before, overtaken, run(2, None), exactly).use(monkeypatch)
    assert list(runs.look()) == ["2030-01-02 09:00:00 nightly: lost in 1:01 min"]
    assert Runs(NAMES, "Etc/UTC").begin <= datetime.now(UTC)


@pytest.mark.parametrize("busy", [True, False])
def test_of_the_runs_that_wait_for_one_at_work_the_last_of_each_deployment_stays(
    busy: bool, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = at(Running() if busy else Completed(), 9)
    waiting = (run(5, None), run(4, None), run(3, None, OTHER), run(2, None), run(1, None, OTHER))
    client = Client(run(0, state), waiting=waiting).use(monkeypatch)
    list(runs.look())
    given_up = [(UUID(int=100 + number), StateType.CANCELLED, OVERTAKEN) for number in (4, 2, 1)]
    assert client.states == (given_up if busy else [])
    if busy:
        kinds, due, named = client.asked[1]
        assert kinds == {StateType.SCHEDULED}
        assert abs(due.before_ - datetime.now(UTC)) < timedelta(minutes=5)
        assert named["sort"].value == "EXPECTED_START_TIME_DESC"
        assert set(named["deployment_filter"].id.any_) == set(NAMES)


LOG = """10:00:00.100 | INFO    | prefect - ready
10:00:01.100 | ERROR   | docket - it broke
Traceback (most recent call last):
  File "x.py", line 3, in y
sqlite3.OperationalError: database is locked
The above exception was the direct cause:
sqlalchemy.exc.Error: (sqlite3) locked
[SQL: INSERT]
10:00:02.100 | CRITICAL | prefect -
10:00:03.100 | WARNING | prefect - KeyError: no
ValueError: of a warning
CRITICAL:   no memory
ERROR:    Exception in ASGI application
"""


def test_errors_are_told_with_the_last_line_of_their_traceback() -> None:
    assert list(errors(LOG.splitlines())) == [
        "docket - it broke: sqlalchemy.exc.Error: (sqlite3) locked",
        "prefect -",
        "no memory",
        "Exception in ASGI application",
    ]
    assert list(errors([])) == []


def test_an_entry_that_is_still_being_written_waits_for_the_next_look(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("")
    reports, told = Reports(log), []
    for text in (
        "1:00:00.1 no entry\n00:00:00.1 | ERROR | a - broke 1\n",
        "KeyError: x\n",
        "",
        "00:00:00.2 | ERROR | b - 2\n",
    ):
        with log.open("a") as file:
            file.write(text)
        told.append([line.removeprefix("the Prefect server reports an error: ") for line in reports.look()])
    assert told == [[], [], [f"a - broke 1: KeyError: x. All of it is in {log}"], []]
    assert list(reports.look()) == [f"the Prefect server reports an error: b - 2. All of it is in {log}"]
    with log.open("a") as file:
        file.write("00:00:09.1 | ERROR | b - 7\n")  # the same but for its number
    assert [*reports.look(), *reports.look()] == []


class Over(Event):
    """An event that is set after this many waits; each must last LOOK seconds."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.left = looks

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout == watch.LOOK
        self.left -= 1
        return self.left < 0


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Calls:
    killed = Calls()
    monkeypatch.setattr(watch.os, "kill", killed)
    return killed


@pytest.fixture
def serving(killed: Calls) -> Serving:
    return Serving()


def test_a_server_that_is_away_is_told_once_and_told_again_when_it_is_back(serving: Serving, killed: Calls) -> None:
    looks: list[Any] = [["one"], ConnectError("refused"), ConnectError(""), ["two"], ["three"], ConnectError("")]

    def look() -> list[str]:
        found = looks.pop(0)
        if isinstance(found, Exception):
            raise found
        return found  # type: ignore[no-any-return]

    told: list[str] = []
    serving._watch([look, lambda: iter(["more"])], told.append, lambda: True, Over(6))
    assert told == [
        "one",
        "more",
        "the Prefect server does not answer (refused): runs wait for it",
        "two",
        "more",
        "the Prefect server answers again",
        "three",
        "more",
        "the Prefect server does not answer (ConnectError): runs wait for it",
    ]
    assert killed == []
    assert not serving.lost


def test_a_server_that_is_gone_ends_serving_and_leaves_the_schedules_on(serving: Serving, killed: Calls) -> None:
    def away() -> Any:
        raise ConnectError("refused")

    told: list[str] = []
    serving._watch([away], told.append, lambda: False, Over(5))
    assert told == []
    assert killed == [(watch.os.getpid(), signal.SIGINT)]
    assert serving.lost
    assert serving.pause_on_shutdown is False


@pytest.mark.parametrize("lost", [True, False])
def test_ctrl_c_ends_serving_and_a_lost_server_is_named(
    lost: bool, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: Serving) -> Any:
        raise KeyboardInterrupt

    watched = Calls()
    monkeypatch.setattr(Serving, "start", start)
    monkeypatch.setattr(serving, "_watch", watched)
    serving.lost = lost
    expected, said = (InputError, "it ended, and with it the runs") if lost else (KeyboardInterrupt, None)
    with pytest.raises(expected, match=said):
        serving.serve(["look"], "tell", "lives")  # type: ignore[list-item, arg-type]
    ((looks, tell, lives, over),) = watched
    assert (looks, tell, lives, over.is_set()) == (["look"], "tell", "lives", True)


def test_ctrl_c_that_comes_as_serving_starts_ends_it_too(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Thread] = []

    def start(thread: Thread) -> None:
        begun.append(thread)
        begin(thread)
        raise KeyboardInterrupt

    begin = Thread.start
    monkeypatch.setattr(Thread, "start", start)
    with pytest.raises(KeyboardInterrupt):
        serving.serve([], Calls(), lambda: True)
    (watching,) = begun
    assert not watching.is_alive()


def test_served_flows_take_turns_and_sigterm_is_like_ctrl_c(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    added = Calls(HERE)
    monkeypatch.setattr(serving, "add_deployment", added)
    assert serving.add("a deployment") == HERE  # type: ignore[arg-type]
    assert added == [("a deployment",)]
    assert serving.limit == 1
    assert not serving.lost
    with pytest.raises(KeyboardInterrupt):
        serving.handle_sigterm(signal.SIGTERM, None)
