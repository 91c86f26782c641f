"""The Prefect server of this repository: started when a flow needs one, gone soon after the last flow that used it.

Every user (a flow, or `python -m flows.server` in a terminal) holds a shared lock on one file; the server leaves when
it gets that file for itself. The kernel drops the locks of a killed process, so no server is ever left behind. Its
history is kept in PREFECT_HOME. Where PREFECT_API_URL names another server, that one is used and none is started.
The repository's own server also shows its pages, under /artifacts, and pictures of past runs: the UI links to them.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import IO, Annotated
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

import typer
from rich.console import Console

from etude.errors import InputError
from flows.process import POLL, alive
from flows.slots import locked

PORT = 4200  # Prefect's own; another one where it is taken
PATIENCE = 300.0  # seconds: the first start of all makes the database, and machines are busy
PAGES = "ETUDE_PAGES"  # environment variable: where /artifacts is served
PICTURES = "pictures"  # the folder in PREFECT_HOME, and where it is served: the pictures of past runs
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the board tells what happens; Prefect keeps the log
}


def connect(root: Path) -> Callable[[], str]:
    """Settings to import Prefect with, and a server for it, used until this process ends.

    Returns at once, while the server starts: the value waits until it answers, and gives its address. Telemetry is
    off; what the user has set in the environment stays.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    os.environ["NO_PROXY"] = ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1", "localhost"]))
    if "PREFECT_API_URL" in os.environ:
        return lambda: _given(os.environ["PREFECT_API_URL"])
    home = Path(os.environ.setdefault("PREFECT_HOME", str(root / ".scratch" / "prefect")))
    home.mkdir(parents=True, exist_ok=True)
    users, starting = (home / "users.lock").open("a"), (home / "starting.lock").open("a")
    fcntl.flock(users, fcntl.LOCK_SH)  # waits for a server that is leaving
    fcntl.flock(starting, fcntl.LOCK_EX)
    url = _recorded(home)[1]
    process = None if answers(url) else _start(home, root, url := f"http://127.0.0.1:{free_port()}")
    # Registered before Prefect is imported, so that what Prefect sends when the process ends still arrives.
    atexit.register(_leave, home, users, process)
    os.environ["PREFECT_API_URL"] = f"{url}/api"
    if home.is_relative_to(root):
        os.environ[PAGES] = url
    return lambda: _wait(home, url, process, starting)


def answers(url: str) -> bool:
    """Whether a Prefect server answers there. A busy one is waited for: two on one history would be at odds."""
    try:
        with build_opener(ProxyHandler({})).open(f"{url}/api/health", timeout=20) as reply:
            return bool(reply.status == 200)
    except (URLError, OSError, ValueError):
        return False


def _given(api: str) -> str:
    """The address of a server that the user named. Raises InputError when nothing answers there."""
    try:
        with build_opener().open(f"{api}/health", timeout=20):
            pass
    except HTTPError:
        pass  # something answers; whether it lets us in is Prefect's to say
    except (URLError, OSError, ValueError) as error:
        action = "start that server, or unset PREFECT_API_URL for one of the repository's own"
        raise InputError("PREFECT_API_URL", f"nothing answers at {api} ({error})", action) from error
    return api.removesuffix("/api")


def _recorded(home: Path) -> tuple[int, str]:
    try:
        pid, url = (home / "server.txt").read_text().split()
        return int(pid), url
    except (FileNotFoundError, ValueError):
        return 0, ""


def free_port() -> int:
    """Prefect's own port, or another one where it is taken. Raises InputError when none is free."""
    for port in (PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise InputError("127.0.0.1", "no port is free", "end a program that listens on many")


def _start(home: Path, root: Path, url: str) -> subprocess.Popen[bytes]:
    port = url.rpartition(":")[2]
    env = dict(os.environ, PREFECT_SERVER_API_HOST="127.0.0.1", PREFECT_SERVER_API_PORT=port)
    env["PREFECT_UI_API_URL"] = f"{url}/api"  # else the pages ask the server of the user's Prefect profile
    env.pop("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", None)
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.server", "--serve", str(home), str(root), port],
            cwd=Path(__file__).parent.parent,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the flow, which still has to say how it ended
        )
    (home / "server.txt").write_text(f"{process.pid} {url}")
    return process


def _wait(home: Path, url: str, process: subprocess.Popen[bytes] | None, starting: IO[str]) -> str:
    end = time.monotonic() + PATIENCE
    while not answers(url):
        if time.monotonic() > end or (process and process.poll() is not None):
            text = (home / "server.log").read_text(errors="replace").strip()
            fault = f"the Prefect server does not start: {text[-2000:] or 'it says nothing'}"
            raise InputError(home / "server.log", fault, "mend that, or delete the folder with its history")
        time.sleep(POLL / 2)
    fcntl.flock(starting, fcntl.LOCK_UN)
    return url


def _leave(home: Path, users: IO[str], process: subprocess.Popen[bytes] | None) -> None:
    """Stop the server if nobody else uses it."""
    fcntl.flock(users, fcntl.LOCK_UN)
    pid = _recorded(home)[0]
    if not pid or not locked(users.fileno()):
        return
    end = time.monotonic() + 5
    while alive(pid, "-m flows.server") and time.monotonic() < end:
        os.kill(pid, signal.SIGTERM)
        time.sleep(POLL)
        if process:
            process.poll()
    (home / "server.txt").unlink(missing_ok=True)


def _leave_when_unused(home: Path, leave: Callable[[], None]) -> None:
    with (home / "users.lock").open("a") as users:
        while not locked(users.fileno()):
            time.sleep(POLL * 5)
        leave()
        time.sleep(PATIENCE)  # keeps the lock until the process ends: who comes now waits, then starts another server


def _serve(home: Path, root: Path, port: int) -> None:
    import uvicorn
    from prefect.server.api.server import create_app
    from starlette.routing import Match, Mount
    from starlette.staticfiles import StaticFiles
    from starlette.types import Scope

    class Pages(Mount):
        """Leaves the UI what is no folder of ours: its own pages of artifacts begin with the same word."""

        def matches(self, scope: Scope) -> tuple[Match, Scope]:
            named = scope["path"].removeprefix("/artifacts/").split("/")[0]
            return super().matches(scope) if named and (root / "artifacts" / named).is_dir() else (Match.NONE, {})

    app = create_app()
    pages = StaticFiles(directory=root / "artifacts", html=True, check_dir=False)
    pictures = StaticFiles(directory=home / PICTURES, check_dir=False)
    app.router.routes[:0] = [  # before the UI, which answers to every path
        Pages("/artifacts", pages),
        Mount(f"/{PICTURES}", pictures),
    ]
    host = "127.0.0.1"
    config = uvicorn.Config(app, host, port, log_level="error", lifespan="on", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    Thread(target=_leave_when_unused, args=(home, lambda: setattr(server, "should_exit", True)), daemon=True).start()
    server.run()


def main(serving: Annotated[tuple[Path, Path, int] | None, typer.Option("--serve", hidden=True)] = None) -> None:
    """Keep Prefect's UI open, to look at past runs, until Ctrl-C."""
    from flows.run import find_root, told_in_short

    if serving:
        _serve(*serving)
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start what runs in the background deaf to it
    with told_in_short("stopped"):
        url = connect(find_root(Path.cwd()))()
        Console(highlight=False).print(f"{url}  (Ctrl-C ends it)")
        signal.pause()


if __name__ == "__main__":
    typer.run(main)
