"""The repository's own Prefect server: whose it is, when it starts and leaves, and what it has recorded by then."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import typer

from flows import server
from flows.server import Server
from tests.flows.conftest import ROOT, Project, wait_until


def test_the_server_stays_open_until_ctrl_c_also_in_a_background_job_of_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    monkeypatch.setattr(server, "find_root", lambda _: tmp_path)
    monkeypatch.setattr(server, "connect", lambda root: lambda: f"http://{root.name}")
    monkeypatch.setattr(signal, "pause", lambda: os.kill(os.getpid(), signal.SIGINT))
    try:
        with pytest.raises(typer.Exit) as ended:
            server.main()
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.value.exit_code == 130
    assert f"http://{tmp_path.name}  (Ctrl-C ends it)" in capsys.readouterr().out


class Other(BaseHTTPRequestHandler):
    """Somebody else's server, which answers to every path."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<title>Prefect")

    def log_message(self, *_: object) -> None:
        pass


def home_of(project: Project) -> Path:
    return project.root / ".scratch/prefect"


def states(home: Path) -> Counter[tuple[str, str]]:
    """How many tasks of the history ended how: (state of the flow, state of the task)."""
    with sqlite3.connect(home / "prefect.db") as history:
        query = "select f.state_name, t.state_name from task_run t join flow_run f on t.flow_run_id = f.id"
        return Counter(history.execute(query).fetchall())


def pid_of(found: Server) -> int:
    """The process that was told this word."""
    (pid,) = (int(file.parent.name) for file in Path("/proc").glob("[0-9]*/cmdline") if says(file, found.word))
    return pid


def says(file: Path, word: str) -> bool:
    try:
        return word in file.read_text().split("\0")
    except OSError:
        return False  # it ended while we looked


def copy(project: Project, name: str) -> Project:
    return Project(Path(shutil.copytree(project.root, project.root.parent / name)))


def test_a_server_belongs_to_its_folder_and_not_to_a_copy_of_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with (home / server.LIFE).open("a") as life:
        fcntl.flock(life, fcntl.LOCK_EX)
        (home / "server.txt").write_text("http://127.0.0.1:4200 word")
        shutil.copytree(home, tmp_path / "copy")
        assert server.lives(home)
        assert not server.lives(tmp_path / "copy")
    assert not server.lives(home)


def test_whoever_answers_with_another_word_is_not_the_server() -> None:
    other = HTTPServer(("127.0.0.1", 0), Other)
    Thread(target=other.serve_forever).start()
    try:
        url = f"http://127.0.0.1:{other.server_port}"
        assert Server(url, "<title>Prefect").answers()
        assert not Server(url, "a3f1").answers()
    finally:
        other.shutdown()
        other.server_close()
    assert not Server(url, "<title>Prefect").answers()


def test_a_taken_port_is_left_to_who_has_it() -> None:
    with server._listen() as first, server._listen() as second, server._listen() as third:
        places = [listener.getsockname() for listener in (first, second, third)]
        assert third.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)  # a port is free as soon as its server ended
    assert {host for host, _ in places} == {"127.0.0.1"}
    assert len({port for _, port in places}) == 3
    assert min(port for _, port in places) > 1024  # the others need no rights


def test_a_folder_of_history_that_cannot_be_made_is_told_in_one_line(project: Project) -> None:
    (project.root / "a").write_text("a file")
    flow = project.flow(PREFECT_HOME="a/b")
    text, _ = flow.communicate()
    assert flow.returncode == 1
    assert text.startswith(
        f"error: {project.root}/a/b: the folder of Prefect's history cannot be used (Not a directory"
    )
    assert text.count("\n") == 1, text


@pytest.mark.slow  # two servers make their databases
def test_two_checkouts_at_once_have_two_servers_and_a_copy_of_a_running_one_has_its_own(project: Project) -> None:
    project.stages(only={"words": ["wait:go"]})
    first, second, third = project, copy(project, "second"), copy(project, "third")
    flows = [first.flow(), second.flow()]
    for each in (first, second):
        each.pid("only")
    shutil.copytree(home_of(first), home_of(third))
    flows.append(third.flow())
    third.pid("only")
    found = [server.recorded(home_of(each)) for each in (first, second, third)]
    assert len({each.url for each in found}) == 3
    assert all(each.answers() for each in found)
    for each in (first, second, third):
        (each.root / "go").touch()
    for flow in flows:
        text, _ = flow.communicate()
        assert flow.returncode == 0, text
    assert not any(server.lives(home_of(each)) for each in (first, second, third))
    assert states(home_of(first)) == states(home_of(second)) == {("Completed", "Ran"): 1}
    assert states(home_of(third))["Completed", "Ran"] == 1


@pytest.mark.slow  # a server, three times
def test_a_flow_that_ends_at_once_is_recorded_whole_and_a_killed_server_is_followed_by_another(
    project: Project,
) -> None:
    project.stages(first={}, **{f"stage{number}": {"deps": ["out/first"]} for number in range(19)})
    project.dvc("repro", "--quiet")
    for number in (1, 2):
        flow = project.flow()
        flow.communicate()
        assert flow.returncode == 0
        assert not server.lives(home_of(project))
        assert states(home_of(project)) == {("Completed", "UpToDate"): 20 * number}
    keeping = subprocess.Popen(
        [sys.executable, "-u", "-m", "flows.server"],
        cwd=project.root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert keeping.stdout
    assert "http://127" in keeping.stdout.readline()  # printed when it answers
    killed = server.recorded(home_of(project))
    os.kill(pid_of(killed), signal.SIGKILL)
    wait_until(lambda: not server.lives(home_of(project)))
    flow = project.flow()
    flow.communicate()
    assert flow.returncode == 0
    assert states(home_of(project)) == {("Completed", "UpToDate"): 60}
    assert server.recorded(home_of(project)) != killed
    keeping.send_signal(signal.SIGINT)
    keeping.communicate()
    assert keeping.returncode == 130
