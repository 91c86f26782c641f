"""What a task's command line makes of errors."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from etude.core.errors import BELOW, EtudeWarning, FormatError, InputError
from tasks import shell
from tasks.shell import run
from tests.shipped import copy_project

CPU_ALLOCATOR = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.fixture
def told(
    shipped: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Exception], str]:
    """What stderr shows when a command ends with an error."""
    monkeypatch.chdir(shipped)
    monkeypatch.setattr(sys, "argv", ["task"])

    def show(error: Exception) -> str:
        def command() -> None:
            raise error

        with pytest.raises(SystemExit) as ended:
            run(command)
        assert ended.value.code == 1
        return capsys.readouterr().err

    return show


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("a.png", "is empty", "leave it out"), "error: a.png: is empty. Next: leave it out.\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "data/x"),
            "error: data/x: No space left on device. Next:",
        ),
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300),
            f"error: {'x' * 300}: File name too long. Next: choose a shorter name",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "out"),
            "error: out: Permission denied. Next: change",
        ),
        *(
            (OSError(getattr(errno, name), "Fault", "a"), f"error: a: Fault. Next: {action}.\n")
            for name, action in (
                ("EDQUOT", "free some space, or ask for more"),
                ("EROFS", "use a folder that can be written"),
                ("ELOOP", "remove the link that leads to itself"),
                ("ENOTDIR", "name a folder, or a file in one"),
                ("EISDIR", "name a file"),
                ("EIO", "check the disk"),
            )
        ),
        (OSError(errno.ENOSPC, "No space left"), "error: disk: No space left. Next: free some space on that disk.\n"),
        (OUT_OF_MEMORY, "error: the start: memory did not suffice: at most "),
        (MemoryError(), "error: the start: memory did not suffice: at most "),
        (CPU_ALLOCATOR, "error: the start: memory did not suffice: at most "),
    ],
)
def test_what_a_person_can_mend_is_one_line(told: Callable[[Exception], str], error: Exception, line: str) -> None:
    assert told(error).startswith(line)


def test_neither_errors_nor_warnings_can_steer_the_terminal_and_several_faults_are_lines(
    told: Callable[[Exception], str],
) -> None:
    fault = FormatError("a.pt", f"has \x1b[2J\n\u202e{BELOW}b.pt: is empty", "leave it out")
    assert told(fault) == "error: a.pt: has \\x1b[2J\\n\\u202e\n       b.pt: is empty. Next: leave it out.\n"

    shown, before = [], warnings.formatwarning

    def command() -> None:
        shown.append(warnings.formatwarning(EtudeWarning("\x1b[2Ja\nb é"), EtudeWarning, "a.py", 1))

    with pytest.raises(SystemExit):
        run(command)
    assert shown == ["warning: \\x1b[2Ja\\nb é\n"]
    assert warnings.formatwarning is before


@pytest.mark.parametrize("error", [RuntimeError("sizes differ"), FileNotFoundError(errno.ENOENT, "No such file", "a")])
def test_a_fault_of_the_code_keeps_its_trace(told: Callable[[Exception], str], error: Exception) -> None:
    with pytest.raises(type(error)):
        told(error)


@pytest.fixture
def system_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a module as a shell without an activated environment does: with a Python that lacks packages."""
    python = shutil.which("python3", path=str(Path(sys.base_prefix, "bin")))
    if sys.prefix == sys.base_prefix or not python:
        pytest.skip("the tests run in no environment of their own")
    others = ("VIRTUAL_ENV", "PYTHONPATH", "CONDA_PREFIX")
    kept = {name: value for name, value in os.environ.items() if name not in others}

    def ran(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [python, "-m", *words]
        return subprocess.run(command, cwd=folder, env=kept | env, capture_output=True, text=True, check=False)

    return ran


def test_a_stage_finds_the_environment_of_the_checkout_in_experiments_and_worktrees(
    tmp_path: Path, system_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    checkout, elsewhere = copy_project(tmp_path / "checkout"), tmp_path / "elsewhere"
    (checkout / ".venv").symlink_to(sys.prefix)
    folders = [checkout, copy_project(checkout / ".dvc/tmp/exps/tmp1"), copy_project(elsewhere)]
    (checkout / ".git/worktrees/elsewhere").mkdir(parents=True)
    (elsewhere / ".git").write_text(f"gitdir: {checkout}/.git/worktrees/elsewhere\n", encoding="utf-8")
    for folder in folders:
        assert system_python(folder, "tasks.prepare", "gone").stderr.startswith("error: NAME: there is no image set")
    own = system_python(checkout, "tasks.prepare", "gone", CONDA_PREFIX="/conda")  # an environment that is activated
    assert "this Python has no " in own.stderr


def test_without_any_environment_it_is_said_what_to_do(
    tmp_path: Path, system_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    folder = copy_project(tmp_path / "alone")
    for words in (["commands.check"], ["tasks.prepare", "concept"]):
        ran = system_python(folder, *words)
        assert ran.returncode == 1
        assert re.fullmatch(r"error: \S+: this Python has no .*typer\. Next: run `make setup`, .*\n", ran.stderr)


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize(("platform", "name"), [("win32", "a set"), ("linux", "'a set'")])
def test_on_windows_whose_shell_leaves_them_the_quotes_around_names_in_dvc_yaml_are_removed(
    platform: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []

    def command(first: str, second: str) -> None:
        given.extend([first, second])

    monkeypatch.setattr(sys, "argv", ["task", "'a set'", "it's"])
    monkeypatch.setattr(sys, "platform", platform)
    with pytest.raises(SystemExit) as ended:
        run(command)
    assert (ended.value.code, given) == (0, [name, "it's"])


@pytest.mark.parametrize(("platform", "name"), [("win32", "Scripts/python.exe"), ("linux", "bin/python3")])
def test_each_system_has_the_python_of_an_environment_in_its_own_place(
    platform: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(shell, "_ROOT", tmp_path)
    assert shell._python() is None
    for other in ("Scripts/python.exe", "bin/python3"):
        (tmp_path / ".venv" / other).parent.mkdir(parents=True)
        (tmp_path / ".venv" / other).touch()
    assert shell._python() == tmp_path / ".venv" / name


def test_on_windows_a_stage_waits_for_the_python_that_does_its_work_and_ends_with_its_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "tasks.build", "lora"])
    run_it = lambda command, check: (asked.append((command, check)), SimpleNamespace(returncode=7))[1]  # noqa: E731
    monkeypatch.setattr(subprocess, "run", run_it)
    with pytest.raises(SystemExit) as ended:
        shell._continue_with(Path("own/python.exe"))
    assert (ended.value.code, asked) == (7, [(["own/python.exe", "-m", "tasks.build", "lora"], False)])
