"""The Prefect server of this repository: it starts when a flow needs it, and ends soon after the last flow.

Lock files in PREFECT_HOME show which processes run. The kernel drops a lock with the last process that holds it, and a
copy of the folder has locks of its own. So the locks are right even after a kill, a power cut or a copied checkout.

- `users.lock` is shared by every user (a flow, or `etude server` in a terminal). The server ends when it gets the
  exclusive lock.
- `server.lock` is held by the server while it runs. `server.txt` holds its address and a token that the server returns:
  a server that returns another token belongs to another checkout or user.
- `starting.lock` is held by a process that looks for the server or starts it.

Prefect's own `prefect server start --background` supports one server a machine and does not know its users: nothing
would end the server, and two checkouts would share it.

The history is kept in PREFECT_HOME too. If PREFECT_API_URL names another server, that one is used, and none is started.
The repository's own server also shows its pages, under /artifacts, and pictures of past runs: the UI links to them.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

from rich.console import Console

from etude.command_line import command_line
from etude.core.errors import InputError
from etude.watch.locks import locked
from flows.process import POLL
from flows.terminal import find_root, told_in_short

if sys.platform != "win32":  # no flow runs on Windows: flows.terminal refuses it
    import fcntl

PORT = 4200  # Prefect's own; another one where it is taken
PATIENCE = 300.0  # seconds; long, since the first start creates the database, and machines are busy
RECORDING = 30.0  # seconds that the server has to record what it received, before it ends
LATE = "3600"  # seconds; long, since served runs wait for each other, and marking them late collides with other writes
NEWS = 3.0  # seconds of waiting before a message is printed
USERS, LIFE, STARTING = "users.lock", "server.lock", "starting.lock"
WORD = "/etude/word"  # path at which the server returns its token
PAGES = "ETUDE_PAGES"  # environment variable: the address that serves /artifacts
PICTURES = "pictures"  # folder in PREFECT_HOME, and its path on the server: the pictures of past runs
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the board shows what happens; Prefect keeps the log
}


@dataclass(frozen=True)
class Server:
    """A server that was started: its address, and the token that it returns."""

    url: str
    word: str

    def answers(self) -> bool:
        """Whether exactly this server answers at the address. Waits up to 20 s for a busy server."""
        try:
            with build_opener(ProxyHandler({})).open(self.url + WORD, timeout=20) as reply:
                return bool(reply.read(100) == self.word.encode())
        except (URLError, OSError, ValueError):
            return False


def connect(root: Path) -> Callable[[], str]:
    """Set up the environment for Prefect, and a server for this process until it ends.

    Call this before importing Prefect. It returns at once, while the server starts: the returned function waits until
    the server answers, and returns its address. Telemetry is off; variables that the user has set stay. Raises
    InputError where PREFECT_HOME cannot be used, or the running server is not known.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    os.environ["NO_PROXY"] = ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1", "localhost"]))
    if "PREFECT_API_URL" in os.environ:
        return lambda: _given(os.environ["PREFECT_API_URL"])
    home = Path(os.environ.get("PREFECT_HOME") or root / ".scratch" / "prefect").expanduser().absolute()
    os.environ["PREFECT_HOME"] = str(home)
    try:
        home.mkdir(parents=True, exist_ok=True)
        with ExitStack() as on_error:
            users = on_error.enter_context((home / USERS).open("a"))
            fcntl.flock(users, fcntl.LOCK_SH)  # waits for a server that is ending
            with _life(home) as life:
                found = _start(home, root, life) if locked(life.fileno()) else recorded(home)
            on_error.pop_all()  # the lock is held until this process ends
    except OSError as error:
        fault = f"the folder of Prefect's history cannot be used ({error.strerror or error})"
        raise InputError(home, fault, "make the folder writable, or set PREFECT_HOME to a writable folder") from error
    # Registered before Prefect is imported, so that what Prefect sends when the process ends still arrives.
    atexit.register(_leave, home, users)
    os.environ["PREFECT_API_URL"] = f"{found.url}/api"
    if home.is_relative_to(root):
        os.environ[PAGES] = found.url
    return lambda: _wait(home, found)


def recorded(home: Path) -> Server:
    """The server that was started last. Raises InputError if server.txt is missing, or was cut by a full disk."""
    path = home / "server.txt"
    words = path.read_text(errors="replace").split() if path.exists() else []
    if len(words) != 2:
        fault = "is damaged or missing, but the server whose address it holds still runs"
        raise InputError(path, fault, "end the flows and servers that use this folder, and run this again")
    return Server(*words)


def lives(home: Path) -> bool:
    """Whether the server that was started last still runs."""
    with _life(home) as life:
        return not locked(life.fileno())


@contextmanager
def _life(home: Path) -> Iterator[IO[str]]:
    """The lock that the server holds while it runs; one process at a time may check it or pass it to a new server."""
    with (home / STARTING).open("a") as starting, (home / LIFE).open("a") as life:
        fcntl.flock(starting, fcntl.LOCK_EX)
        yield life


def _given(api: str) -> str:
    """The address of a server that the user named. Raises InputError when nothing answers there."""
    try:
        with build_opener().open(f"{api}/health", timeout=20):
            pass
    except HTTPError:
        pass  # a server answers; Prefect itself reports a refused login
    except (URLError, OSError, ValueError) as error:
        action = "start that server, or unset PREFECT_API_URL: then the repository starts its own"
        raise InputError("PREFECT_API_URL", f"nothing answers at {api} ({error})", action) from error
    return api.removesuffix("/api")


def _listen() -> socket.socket:
    """A socket that listens on Prefect's own port, or on another if that is taken. Raises InputError without any."""
    for port in (PORT, 0):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen()
        except OSError:
            listener.close()
        else:
            return listener
    raise InputError("127.0.0.1", "no port is free", "end a program that listens on many ports")


def _start(home: Path, root: Path, life: IO[str]) -> Server:
    """Start a server that holds `life`. It inherits a socket that listens already: nobody else can take its port."""
    with _listen() as listener, (home / "server.log").open("wb") as log:
        port = listener.getsockname()[1]
        server = Server(f"http://127.0.0.1:{port}", token_hex(8))
        env = dict(os.environ, PREFECT_SERVER_API_HOST="127.0.0.1", PREFECT_SERVER_API_PORT=str(port))
        env["PREFECT_UI_API_URL"] = f"{server.url}/api"  # without it the UI calls the server of the user's profile
        env.setdefault("PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS", LATE)
        env.pop("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", None)
        (home / "server.txt").write_text(f"{server.url} {server.word}")
        words = [str(home), str(root), str(listener.fileno()), server.word]
        subprocess.Popen(
            [sys.executable, "-m", "flows.server_process", *words],
            cwd=Path(__file__).parent.parent,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the flow, which must still send its end to the server
            pass_fds=(listener.fileno(), life.fileno()),
        )
    return server


def _wait(home: Path, server: Server) -> str:
    end = time.monotonic() + PATIENCE
    while not server.answers():
        if not lives(home):
            text = (home / "server.log").read_text(errors="replace").strip()
            fault = f"the Prefect server does not start: {text[-2000:] or 'it says nothing'}"
            action = f"correct this, or delete {home}, and with it the history of past runs"
            raise InputError(home / "server.log", fault, action)
        if time.monotonic() > end:
            fault = f"the Prefect server of this folder does not answer at {server.url}"
            action = "end that server; or set PREFECT_HOME to a folder that no other machine uses"
            raise InputError(home / "server.txt", fault, action)
        time.sleep(POLL / 2)
    return server.url


def _leave(home: Path, users: IO[str]) -> None:
    """Stop using the server; if nobody else uses it, wait until it has recorded everything and ended."""
    last = locked(users.fileno())
    fcntl.flock(users, fcntl.LOCK_UN)
    begin, told = time.monotonic(), False
    with suppress(KeyboardInterrupt, OSError):  # the server records without us too, while its folder exists
        while last and lives(home) and not _in_use(users):
            waited = time.monotonic() - begin
            if waited > NEWS and not told:
                sys.stderr.write("waiting until Prefect's server has recorded this run\n")
                told = True
            if waited > 3 * RECORDING:
                sys.stderr.write(f"Prefect's server may not have recorded all of this run: see {home}/server.log\n")
                break
            time.sleep(POLL)


def _in_use(users: IO[str]) -> bool:
    """Whether another user shares the lock; a server that is ending holds it exclusively."""
    try:
        if locked(users.fileno()):
            return False
        fcntl.flock(users, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        fcntl.flock(users, fcntl.LOCK_UN)
    return True


def main() -> None:
    """Keep Prefect's UI open, to look at past runs, until Ctrl-C.

    Example: etude server
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs with SIGINT ignored
    with told_in_short("stopped"):
        url = connect(find_root(Path.cwd()))()
        Console(highlight=False).print(f"{url}  (Ctrl-C ends it)")
        signal.pause()


if __name__ == "__main__":
    command_line(main)
