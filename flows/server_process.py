"""The process of the repository's Prefect server: `flows.server` starts it.

It serves Prefect's API and UI, the repository's pages under /artifacts, the pictures of past runs, and the word by
which its users know it. It leaves when nobody holds `users.lock` any more and what it was sent is recorded.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Match, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from etude.command_line import command_line
from etude.watch.locks import locked
from flows.process import POLL
from flows.server import PICTURES, RECORDING, USERS, WORD

EVENTS = "/api/events/in"  # where flows send what becomes of their tasks


class Pages(Mount):
    """Leaves the UI what is no folder of ours: its own pages of artifacts begin with the same word."""

    def __init__(self, path: str, folder: Path) -> None:
        super().__init__(path, StaticFiles(directory=folder, html=True, check_dir=False))
        self.folder = folder

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As of every Mount."""
        named = scope["path"].removeprefix("/artifacts/").split("/")[0]
        return super().matches(scope) if named and (self.folder / named).is_dir() else (Match.NONE, {})


class Inbox:
    """Around the app: knows whether all that flows have sent is recorded.

    Tasks tell their states as events, which Prefect's services take from queues; a service that is stopped drops
    what still waits there.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.senders = app, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Counts the connections that events come in by."""
        sends = scope["type"] == "websocket" and scope["path"] == EVENTS
        self.senders += sends
        try:
            await self.app(scope, receive, send)
        finally:
            self.senders -= sends

    def empty(self) -> bool:
        """Whether no connection is open that events come in by, and no event waits for a service."""
        return not self.senders and not waiting()


def waiting() -> int:
    """How many events wait for Prefect's services. What a service has taken it writes down when it is stopped."""
    from prefect.server.utilities.messaging.memory import Topic

    subscriptions = [one for topic in list(Topic._topics.values()) for one in topic._subscriptions]
    return sum(one._queue.qsize() + one._retry.qsize() for one in subscriptions)


def application(home: Path, root: Path, word: str) -> Starlette:
    """Prefect's server with what the repository adds. At its end it stops no service that has events before it."""
    from prefect.server.api.server import create_app

    app = create_app()
    app.router.routes[:0] = [  # before the UI, which answers to every path
        Route(WORD, lambda _: PlainTextResponse(word)),
        Pages("/artifacts", root / "artifacts"),
        Mount(f"/{PICTURES}", StaticFiles(directory=home / PICTURES, check_dir=False)),
    ]
    services = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(own: Any) -> AsyncIterator[Any]:
        async with services(own) as state:
            yield state
            end = time.monotonic() + RECORDING
            while waiting() and time.monotonic() < end:
                await asyncio.sleep(POLL)

    app.router.lifespan_context = lifespan
    return app


def leave_when_unused(home: Path, recorded: Callable[[], bool], leave: Callable[[], None]) -> None:
    """Wait until nobody uses the server and all is recorded, then have it leave.

    The lock is kept until the process ends: who comes now waits for that, then starts another server.
    """
    users = (home / USERS).open("a")
    while not locked(users.fileno()):
        time.sleep(POLL)
    end = time.monotonic() + RECORDING
    while not recorded() and time.monotonic() < end:
        time.sleep(POLL)
    leave()
    time.sleep(2 * RECORDING)
    os._exit(1)  # a service does not end, and somebody waits


def main(home: Path, root: Path, listener: int, word: str) -> None:
    """Be the server of the history in HOME for the checkout ROOT: started by `flows.server`, for which it is.

    LISTENER is the number of the socket that it inherits, WORD what it answers with. It serves until nobody uses it, or
    SIGTERM.
    """
    import uvicorn

    inbox = Inbox(application(home, root, word))
    config = uvicorn.Config(inbox, log_level="error", lifespan="on", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    leaving = (home, inbox.empty, lambda: setattr(server, "should_exit", True))
    Thread(target=leave_when_unused, args=leaving, daemon=True).start()
    server.run(sockets=[socket.socket(fileno=listener)])
    os._exit(0)  # all is written; taking the interpreter down costs seconds, and somebody waits


if __name__ == "__main__":
    command_line(main)
