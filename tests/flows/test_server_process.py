"""The process of the repository's Prefect server: when it ends, and what it serves beside the UI."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Match

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
