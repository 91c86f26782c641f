"""The process of the repository's Prefect server: when it ends, and what it serves beside the UI."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Match, Route
from starlette.testclient import TestClient

from flows import server, server_process
from tests.flows.conftest import Calls, Clock


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the process keeps its lock until it ends
def test_the_server_leaves_once_it_has_no_user_and_has_recorded_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, ended = Clock(), Calls()
    monkeypatch.setattr(server_process, "time", clock)
    monkeypatch.setattr(server_process.os, "_exit", ended)
    used = iter([False, False, True])
    monkeypatch.setattr(server_process, "locked", lambda _: next(used))
    left: list[float] = []
    server_process.leave_when_unused(tmp_path, lambda: clock.now >= 5.0, lambda: left.append(clock.now))
    assert 5.0 <= left[0] < 5.5
    assert clock.now == left[0] + 2 * server.RECORDING
    assert ended == [(1,)]
    clock.now, used = 0.0, iter([True])
    server_process.leave_when_unused(tmp_path, lambda: False, lambda: left.append(clock.now))
    assert server.RECORDING <= left[1] < server.RECORDING + 1


def test_connections_that_send_events_are_counted_until_they_close(monkeypatch: pytest.MonkeyPatch) -> None:
    queued = [0]
    monkeypatch.setattr(server_process, "waiting", lambda: queued[0])
    seen: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(inbox.empty())
        if receive:
            raise ConnectionError

    inbox = server_process.Inbox(app)
    sends = {"type": "websocket", "path": server_process.EVENTS}
    for scope in (sends, {"type": "http", "path": server_process.EVENTS}, {"type": "websocket", "path": "/api"}):
        asyncio.run(inbox(scope, None, None))  # type: ignore[arg-type]
    with pytest.raises(ConnectionError):
        asyncio.run(inbox(sends, "fails", None))  # type: ignore[arg-type]
    assert seen == [False, True, True, False]
    assert inbox.empty()
    queued[0] = 1
    assert not inbox.empty()


def test_pages_are_folders_that_exist_and_all_else_is_the_uis(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "file").write_text("")
    pages = server_process.Pages("/artifacts", tmp_path)

    def matches(path: str) -> bool:
        found, _ = pages.matches({"type": "http", "path": path, "method": "GET", "headers": []})
        return found != Match.NONE

    paths = (
        "/artifacts/report/",
        "/artifacts/report/a/b.png",
        "/artifacts/",
        "/artifacts/file",
        "/artifacts/none",
        "/x",
    )
    assert [matches(path) for path in paths] == [True, True, False, False, False, False]


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    """Put a module in the place of one of Prefect's server, whose import takes seconds."""
    words = name.split(".")
    for length in range(2, len(words) + 1):
        monkeypatch.setitem(sys.modules, ".".join(words[:length]), ModuleType(name))
    vars(sys.modules[name]).update(content)


def test_events_wait_in_the_queues_of_every_service_and_among_those_that_are_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def queues(first: int, again: int) -> Any:
        sizes = (SimpleNamespace(qsize=lambda size=size: size) for size in (first, again))
        return SimpleNamespace(**dict(zip(("_queue", "_retry"), sizes, strict=True)))

    full, empty = SimpleNamespace(_subscriptions=[queues(1, 2), queues(4, 0)]), SimpleNamespace(_subscriptions=[])
    topic = SimpleNamespace(_topics={1: full, 2: empty})
    stand_in(monkeypatch, "prefect.server.utilities.messaging.memory", Topic=topic)
    assert server_process.waiting() == 7


def test_the_server_serves_its_word_pages_and_pictures_before_the_ui_and_ends_when_nothing_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, root = tmp_path / "home", tmp_path / "root"
    stand_in(monkeypatch, "prefect.server.api.server", create_app=Starlette)
    server_process.application(home, root, "word")  # of a checkout without pages or pictures yet
    for file in (home / server.PICTURES / "a.webp", root / "artifacts/report/index.html"):
        file.parent.mkdir(parents=True)
        file.write_text(f"a {file.name}")
    events: list[str] = []

    @asynccontextmanager
    async def services(_: Any) -> AsyncIterator[None]:
        events.append("services begin")
        yield
        events.append("services end")

    def count() -> int:
        events.append("looked")
        return 3 - len([event for event in events if event == "looked"])

    own = Starlette(routes=[Route("/{path:path}", lambda _: PlainTextResponse("the UI"))], lifespan=services)
    stand_in(monkeypatch, "prefect.server.api.server", create_app=lambda: own)
    monkeypatch.setattr(server_process, "waiting", count)
    monkeypatch.setattr(server_process, "POLL", 0.0)
    app = server_process.application(home, root, "word")
    with TestClient(app) as client:
        paths = (server.WORD, "/artifacts/report/", f"/{server.PICTURES}/a.webp", "/artifacts/flow", "/")
        assert [client.get(path).text for path in paths] == ["word", "a index.html", "a a.webp", "the UI", "the UI"]
    assert events == ["services begin", "looked", "looked", "looked", "services end"]


def test_the_process_serves_the_socket_that_it_inherits_until_nobody_uses_it_and_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    over, ended = threading.Event(), Calls()

    class Server:
        should_exit = False

        def __init__(self, config: Any) -> None:
            given["config"] = config

        def run(self, sockets: list[socket.socket]) -> None:
            assert over.wait(60)
            given["ports"] = [one.getsockname()[1] for one in sockets]
            assert self.should_exit
            for one in sockets:
                one.detach()

    def leave(home: Path, recorded: Any, leave: Any) -> None:
        given["leaving"] = (home, recorded(), threading.current_thread().daemon)
        leave()
        over.set()

    stand_in(monkeypatch, "prefect.server.utilities.messaging.memory", Topic=SimpleNamespace(_topics={}))
    uvicorn = SimpleNamespace(Server=Server, Config=lambda app, **named: (app, named))
    monkeypatch.setitem(sys.modules, "uvicorn", uvicorn)
    monkeypatch.setattr(server_process, "application", lambda *words: words)
    monkeypatch.setattr(server_process, "leave_when_unused", leave)
    monkeypatch.setattr(server_process.os, "_exit", ended)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server_process.main(tmp_path, tmp_path / "root", listener.fileno(), "word")
        assert given["ports"] == [listener.getsockname()[1]]
    inbox, named = given["config"]
    assert inbox.app == (tmp_path, tmp_path / "root", "word")
    assert (named["lifespan"], named["log_level"]) == ("on", "error")  # else what waits is lost as it ends
    assert given["leaving"] == (tmp_path, True, True)
    assert ended == [(0,)]
