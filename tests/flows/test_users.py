"""Who uses the repository's Prefect server, and when it starts, answers and leaves: without starting one."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError, URLError

import pytest

from etude.core.errors import InputError
from flows import server
from flows.server import LIFE, QUIET, STARTING, USERS, Server
from tests.flows.conftest import Calls, Clock

FOUND = Server("http://127.0.0.1:4321", "word")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home


@contextmanager
def holds(file: Path, kind: int) -> Iterator[None]:
    """Somebody who holds a lock."""
    with file.open("a") as lock:
        fcntl.flock(lock, kind)
        yield


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of Prefect's is set; those that are set in the test are gone afterwards."""
    for name in (*QUIET, "PREFECT_HOME", "PREFECT_API_URL", server.PAGES, "NO_PROXY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, Calls]:
    """What connecting calls; the server is one that is started at once."""
    did = {"start": Calls(FOUND), "wait": Calls("http://ready"), "exit": Calls()}
    monkeypatch.setattr(server, "_start", did["start"])
    monkeypatch.setattr(server, "_wait", did["wait"])
    monkeypatch.setattr(server.atexit, "register", did["exit"])
    return did


@pytest.mark.usefixtures("environment")
def test_the_first_user_starts_the_server_and_the_next_one_finds_it(tmp_path: Path, started: dict[str, Calls]) -> None:
    home = tmp_path / ".scratch/prefect"
    os.environ["NO_PROXY"] = "mine"
    ready = server.connect(tmp_path)
    ((folder, root, life),) = started["start"]
    assert (folder, root, life.name) == (home, tmp_path, str(home / LIFE))
    assert {name: os.environ[name] for name in QUIET} == QUIET
    assert os.environ["PREFECT_HOME"] == str(home)
    assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:4321/api"
    assert os.environ[server.PAGES] == "http://127.0.0.1:4321"
    assert os.environ["NO_PROXY"] == "mine,127.0.0.1,localhost"
    assert started["wait"] == []
    assert ready() == "http://ready"
    assert started["wait"] == [(home, FOUND)]
    ((leave, where, users),) = started["exit"]
    assert (leave, where) == (server._leave, home)
    with (home / USERS).open("a") as other:  # every user shares this lock; the server waits for all of them
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    users.close()
    del os.environ["PREFECT_API_URL"]
    (home / "server.txt").write_text("http://127.0.0.1:9 other")
    with holds(home / LIFE, fcntl.LOCK_EX):
        server.connect(tmp_path)
    assert len(started["start"]) == 1
    assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:9/api"
    started["exit"][1][2].close()


@pytest.mark.usefixtures("environment")
def test_what_the_user_has_set_stays_and_pages_are_served_only_from_the_checkouts_own_history(
    tmp_path: Path, home: Path, started: dict[str, Calls], monkeypatch: pytest.MonkeyPatch
) -> None:
    os.environ["PREFECT_HOME"] = str(home)
    os.environ["DO_NOT_TRACK"] = "0"
    server.connect(tmp_path / "checkout")
    started["exit"][0][2].close()
    assert os.environ["DO_NOT_TRACK"] == "0"
    assert os.environ["NO_PROXY"] == "127.0.0.1,localhost"
    assert server.PAGES not in os.environ
    asked = Calls("http://theirs")
    monkeypatch.setattr(server, "_given", asked)
    os.environ["PREFECT_API_URL"] = "http://theirs/api"
    assert server.connect(tmp_path)() == "http://theirs"
    assert asked == [("http://theirs/api",)]
    assert len(started["start"]) == len(started["exit"]) == 1


@pytest.mark.usefixtures("environment", "started")
def test_a_record_that_a_full_disk_cut_is_named(tmp_path: Path, home: Path) -> None:
    (home / "server.txt").write_text("http://127.0.0.1:9 word\n")
    assert server.recorded(home) == Server("http://127.0.0.1:9", "word")
    os.environ["PREFECT_HOME"] = str(home)
    for spoil in (lambda path: path.write_bytes(b"http://127.0.0.1:9\xff"), Path.unlink):
        spoil(home / "server.txt")
        match = r"server\.txt: is damaged or missing, .*Next: end the flows and servers that use this folder"
        with holds(home / LIFE, fcntl.LOCK_EX), pytest.raises(InputError, match=match):
            server.connect(tmp_path)


def test_one_process_at_a_time_looks_for_the_server(home: Path) -> None:
    begun, looked = Event(), Event()

    def look() -> None:
        begun.set()
        server.lives(home)
        looked.set()

    with holds(home / STARTING, fcntl.LOCK_EX):
        thread = Thread(target=look)
        thread.start()
        begun.wait()
        assert not looked.wait(0.1)
    thread.join()


@pytest.mark.parametrize(
    ("answer", "fine"),
    [
        (None, True),
        (HTTPError("u", 401, "login", None, None), True),  # type: ignore[arg-type]
        (URLError("refused"), False),
        (ValueError("no address"), False),
    ],
)
def test_a_server_of_the_users_is_one_that_answers_at_all(
    answer: Exception | None, fine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Calls()

    @contextmanager
    def connect(address: str, timeout: float) -> Iterator[None]:
        asked(address, timeout)
        if answer:
            raise answer
        yield

    monkeypatch.setattr(server, "build_opener", lambda: SimpleNamespace(open=connect))
    if fine:
        assert server._given("http://there/api") == "http://there"
    else:
        with pytest.raises(InputError, match="PREFECT_API_URL: nothing answers at http://there/api"):
            server._given("http://there/api")
    assert asked == [("http://there/api/health", 20)]


def test_the_server_is_a_process_of_its_own_that_inherits_its_port_and_its_lock(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    process = Calls()
    monkeypatch.setattr(server.subprocess, "Popen", process)
    with (home / LIFE).open("a") as life:
        found = server._start(home, tmp_path, life)
        lock = life.fileno()
    assert server.recorded(home) == found
    assert len(found.word) == 16
    ((command, named),) = process
    port, listener = found.url.rpartition(":")[2], command[5]
    assert command == [sys.executable, "-m", "flows.server_process", str(home), str(tmp_path), listener, found.word]
    assert named["pass_fds"] == (int(listener), lock)
    assert named["start_new_session"] is True
    assert (named["stdin"], named["stderr"]) == (subprocess.DEVNULL, subprocess.STDOUT)
    assert named["cwd"] == Path(server.__file__).parent.parent
    assert named["stdout"].name == str(home / "server.log")
    env = named["env"]
    assert (env["PREFECT_SERVER_API_HOST"], env["PREFECT_SERVER_API_PORT"]) == ("127.0.0.1", port)
    assert env["PREFECT_UI_API_URL"] == f"{found.url}/api"
    assert env["PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS"] == server.LATE
    assert "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL" not in env  # its own log says all


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(server, "time", clock)
    return clock


def waits(answers: int) -> Any:
    """A server that answers from that look on."""
    looks = iter(range(answers + 1))
    return SimpleNamespace(url="http://here", answers=lambda: next(looks) >= answers)


def test_a_server_is_waited_for_while_it_lives_and_not_for_ever(
    home: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "lives", lambda _: True)
    assert server._wait(home, waits(4)) == "http://here"
    assert 0 < clock.now < 1
    clock.now = 0
    with pytest.raises(InputError, match="does not answer at http://here. Next: end that server; or set PREFECT_HOME"):
        server._wait(home, waits(10**6))
    assert server.PATIENCE < clock.now <= server.PATIENCE + 1


@pytest.mark.parametrize(("log", "said"), [("x" * 3000 + " no\n", "start: x{1997} no. Next"), ("", "it says nothing")])
def test_a_server_that_does_not_start_is_shown_with_the_end_of_its_log(
    log: str, said: str, home: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "lives", lambda _: False)
    (home / "server.log").write_text(log)
    with pytest.raises(InputError, match=f"the Prefect server does not {'start: ' if not log else ''}{said}"):
        server._wait(home, waits(10))


def leave(home: Path) -> None:
    with (home / USERS).open("a") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        server._leave(home, users)


def test_the_last_user_waits_until_the_server_has_ended_and_says_so_once(
    home: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server, "lives", lambda _: clock.now < 2.0)
    leave(home)
    assert 2.0 <= clock.now < 2.5
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(server, "lives", lambda _: True)
    clock.now = 0
    leave(home)
    waiting, unsure = capsys.readouterr().err.splitlines()
    assert waiting == "waiting until Prefect's server has recorded this run"
    assert unsure == f"Prefect's server may not have recorded all of this run: see {home}/server.log"
    assert 3 * server.RECORDING < clock.now <= 3 * server.RECORDING + 1


def test_a_user_beside_others_leaves_at_once_and_one_whom_another_follows_too(
    home: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "lives", lambda _: True)
    with holds(home / USERS, fcntl.LOCK_SH):
        leave(home)
    monkeypatch.setattr(server, "_in_use", lambda _: clock.now >= 1.0)
    leave(home)
    assert 1.0 <= clock.now < 1.5


def test_a_server_is_in_use_while_another_user_shares_the_lock_and_not_while_it_ends(home: Path) -> None:
    with (home / USERS).open("a") as users:
        assert not server._in_use(users)
        with holds(home / USERS, fcntl.LOCK_SH):
            assert server._in_use(users)
        with holds(home / USERS, fcntl.LOCK_EX):
            assert not server._in_use(users)
        with holds(home / USERS, fcntl.LOCK_EX):  # and none of the looks has left a lock
            pass
