"""The process of the repository's Prefect server: `flows.server` starts it.

It serves Prefect's API and UI, the repository's pages under /artifacts, the pictures of past runs, and the token by
which its users recognise it. It ends when nobody holds `users.lock` any more and everything it received is recorded.
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

EVENTS = "/api/events/in"  # path to which flows send the states of their tasks


class Pages(Mount):
    """Serves only folders that exist in the checkout: the UI's own pages of artifacts begin with the same path."""

    def __init__(self, path: str, folder: Path) -> None:
        super().__init__(path, StaticFiles(directory=folder, html=True, check_dir=False))
        self.folder = folder

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match as every Mount does, but only folders that exist."""
        named = scope["path"].removeprefix("/artifacts/").split("/")[0]
        return super().matches(scope) if named and (self.folder / named).is_dir() else (Match.NONE, {})


class Inbox:
    """A wrapper of the app that knows whether everything that flows have sent is recorded.

    Tasks send their states as events, which Prefect's services take from queues; a service that is stopped drops
    events that still wait in its queue.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.senders = app, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the open connections that send events."""
        sends = scope["type"] == "websocket" and scope["path"] == EVENTS
        self.senders += sends
        try:
            await self.app(scope, receive, send)
        finally:
            self.senders -= sends

    def empty(self) -> bool:
        """Whether no open connection sends events, and no event waits for a service."""
        return not self.senders and not waiting()


def waiting() -> int:
    """How many events wait for Prefect's services. A service that is stopped still records the events it has taken."""
    from prefect.server.utilities.messaging.memory import Topic

    subscriptions = [one for topic in list(Topic._topics.values()) for one in topic._subscriptions]
    return sum(one._queue.qsize() + one._retry.qsize() for one in subscriptions)


def application(home: Path, root: Path, word: str) -> Starlette:
    """Prefect's server with the repository's routes. At its end it stops the services only when no event waits."""
    from prefect.server.api.server import create_app

    app = create_app()
    app.router.routes[:0] = [  # before the UI, which answers every path
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
    """Wait until nobody uses the server and everything is recorded, then call `leave`.

    The process keeps the lock until it ends: a new user waits for that, then starts another server.
    """
    users = (home / USERS).open("a")
    while not locked(users.fileno()):
        time.sleep(POLL)
    end = time.monotonic() + RECORDING
    while not recorded() and time.monotonic() < end:
        time.sleep(POLL)
    leave()
    time.sleep(2 * RECORDING)
    os._exit(1)  # a service does not end, and a flow waits for this process


def main(home: Path, root: Path, listener: int, word: str) -> None:
    """Serve the history in HOME for the checkout ROOT. Only `flows.server` starts this command.

    LISTENER is the number of the socket that it inherits, WORD the token that it returns. It serves until nobody uses
    it, or SIGTERM.
    """
    import uvicorn

    inbox = Inbox(application(home, root, word))
    config = uvicorn.Config(inbox, log_level="error", lifespan="on", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    leaving = (home, inbox.empty, lambda: setattr(server, "should_exit", True))
    Thread(target=leave_when_unused, args=leaving, daemon=True).start()
    server.run(sockets=[socket.socket(fileno=listener)])
    os._exit(0)  # everything is written; a normal exit of Python takes seconds, and a flow waits


if __name__ == "__main__":
    command_line(main)
