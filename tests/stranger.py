"""A new user's machine: a fresh clone in an empty folder, with its own environment and home, and no cache."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from tests.shipped import PARAMS, ROOT

PATIENCE = 900.0  # seconds until a command counts as hung: machines are busy
FENCE = re.compile(r"```bash\n(.*?)```", re.DOTALL)


def command_lines(file: Path) -> list[str]:
    """The command lines of a Markdown file, in order, without their comments."""
    blocks = FENCE.findall(file.read_text(encoding="utf-8"))
    lines = [line for block in blocks for line in block.splitlines()]
    commands = [re.sub(r"\s+#\s.*$", "", line).strip() for line in lines]
    return [command for command in commands if command and not command.startswith("#")]


@dataclass
class Stranger:
    """Somebody at a terminal, in a fresh clone, with the environment activated."""

    clone: Path
    home: Path
    exported: dict[str, str] = field(default_factory=dict)  # environment variables set in the terminal
    running: list[subprocess.Popen[str]] = field(default_factory=list)  # processes left running in other terminals

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of a terminal, and nothing else of this process."""
        kept = {name: os.environ[name] for name in ("LANG", "TMPDIR", "OMP_NUM_THREADS") if name in os.environ}
        author = {"GIT_AUTHOR_NAME": "stranger", "GIT_AUTHOR_EMAIL": "stranger@localhost"}
        committer = {"GIT_COMMITTER_NAME": "stranger", "GIT_COMMITTER_EMAIL": "stranger@localhost"}
        path = f"{self.clone / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"
        own = {"HOME": str(self.home), "PATH": path, "COLUMNS": "200", "DO_NOT_TRACK": "1", "DVC_NO_ANALYTICS": "1"}
        return {**kept, **author, **committer, **own, **self.exported}

    def run(self, line: str, *, code: int = 0, **env: str) -> str:
        """What a command line prints to both streams. The line must end with exit code ``code``."""
        process = self.start(line, **env)
        try:
            said, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        assert process.returncode == code, f"{line}: exit code {process.returncode}\n{said}"
        return said

    def start(self, line: str, **env: str) -> subprocess.Popen[str]:
        """Start the process of a command line, in its own process group."""
        return subprocess.Popen(
            ["bash", "-c", line],
            cwd=self.clone,
            env={**self.environment, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def serve(self, line: str, ready: str, **env: str) -> str:
        """Start a command that runs until Ctrl-C, send that when it prints ``ready`` (a pattern); return its output."""
        process, said = self._start_until(line, ready, env)
        os.killpg(process.pid, signal.SIGINT)
        return said + process.communicate(timeout=PATIENCE)[0]

    def leave_running(self, line: str, ready: str, **env: str) -> None:
        """Start a command in another terminal, and return when it prints ``ready`` (a pattern)."""
        self.running.append(self._start_until(line, ready, env)[0])

    def leave(self) -> None:
        """Close the other terminals."""
        for process in self.running:
            os.killpg(process.pid, signal.SIGINT)
        for process in self.running:
            try:
                process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        self.running.clear()

    def _start_until(self, line: str, ready: str, env: dict[str, str]) -> tuple[subprocess.Popen[str], str]:
        process, said = self.start(line, **env), ""
        assert process.stdout
        for text in process.stdout:
            said += text
            if re.search(ready, text):
                return process, said
        raise AssertionError(f"{line}: ended before it was ready\n{said}")

    def has(self, *names: str) -> None:
        """Assert that the files and folders exist and are not empty."""
        missing = [name for name in names if not _holds_something(self.clone / name)]
        assert not missing, missing


def _holds_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists() and path.stat().st_size > 0


def arrive(folder: Path, source: Path = ROOT) -> Stranger:
    """Clone the repository as it is committed, with an environment that has the packages of this one.

    The shipped parameters replace those that a user of this checkout committed. The tests already run with what
    `make setup` installs, so it is not installed a second time: the clone's .venv finds those packages.
    """
    clone, home = folder / "etude", folder / "home"
    home.mkdir(parents=True)
    subprocess.run(["git", "clone", "-q", f"file://{source}", str(clone)], check=True)
    shutil.copytree(PARAMS, clone, dirs_exist_ok=True)
    author = ["-c", "user.name=stranger", "-c", "user.email=stranger@localhost"]
    if subprocess.run(["git", "diff", "--quiet"], cwd=clone, check=False).returncode:
        subprocess.run(["git", *author, "commit", "-qam", "shipped parameters"], cwd=clone, check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(clone / ".venv")], check=True)
    own = next((clone / ".venv").rglob("site-packages"))
    (own / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    scripts = Path(sys.executable).parent
    for script in ("etude", "dvc", "prefect", "ruff", "mypy", "lint-imports"):
        text = f'#!/bin/sh\nexec "{clone}/.venv/bin/python" "{scripts / script}" "$@"\n'
        (clone / ".venv/bin" / script).write_text(text, encoding="utf-8")
        (clone / ".venv/bin" / script).chmod(0o755)
    (clone / ".venv/bin/.installed").touch()
    return Stranger(clone, home)
