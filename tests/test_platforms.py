"""Stages and commands need nothing that exists only on Linux or only on Unix."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from tests.shipped import ROOT, copy_project

UNIX = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix_ipc")
PRELUDE = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
# Libraries choose their own code for a system when they are imported: they are not what is tried here.
import asyncio, concurrent.futures.process, multiprocessing, numpy, PIL.Image, psutil, pydantic
import rich.console, rich.progress, ruamel.yaml
import subprocess, tempfile, typer, zoneinfo
from importlib import import_module
from types import ModuleType
for name in NAMES:
    import_module(name)
for name in [name for name in sys.modules if name.partition(".")[0] in ("etude", "tasks", "commands", "pipelines")]:
    del sys.modules[name]
for name in {UNIX!r}:
    sys.modules[name] = None  # importing it is now a ModuleNotFoundError
sys.platform = "win32"
msvcrt = sys.modules["msvcrt"] = ModuleType("msvcrt")
msvcrt.LK_NBLCK, held = 2, set()
def locking(file, mode, count):
    import os
    place = os.fstat(file).st_ino
    if place in held:
        raise OSError("locked")
    held.add(place)
msvcrt.locking = locking
"""
IMPORT_ALL = """
for name in NAMES:
    import_module(name)
"""
STAGE = """
import runpy
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def on_windows(script: str, folder: Path, *words: str, modules: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run a script as if the system were Windows, as far as Python can imitate it; imports of ``modules`` work."""
    command = [sys.executable, "-W", "ignore", "-c", f"NAMES = {list(modules)}\n{PRELUDE}{script}", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def modules_of(*folders: str) -> list[str]:
    files = [file.relative_to(ROOT) for folder in folders for file in (ROOT / folder).rglob("*.py")]
    return sorted(".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files)


def test_all_that_stages_and_commands_import_is_there_on_windows(tmp_path: Path) -> None:
    named = [name for name in modules_of("etude", "tasks", "commands", "pipelines") if "etude_launcher" not in name]
    done = on_windows(IMPORT_ALL, tmp_path, modules=named)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with one picture in an image set."""
    folder = copy_project(tmp_path_factory.mktemp("windows") / "project")
    (folder / "data/samples/concept").mkdir(parents=True)
    Image.new("RGB", (80, 60), "red").save(folder / "data/samples/concept/a.png")
    return folder


def test_a_stage_runs_on_windows_with_the_name_quoted_as_dvc_yaml_has_it(project: Path) -> None:
    done = on_windows(STAGE, project, "tasks.prepare", "'concept'")
    assert done.returncode == 0, done.stderr
    assert len(list((project / "data/concept/prepared").glob("*.png"))) >= 1


@pytest.mark.parametrize("name", ["run", "sweep", "reproduce", "serve", "server", "worker"])
def test_a_flow_says_on_windows_what_it_needs(project: Path, name: str) -> None:
    words = {"sweep": ["-S", "pipelines/lora/params.yaml:rank=4"], "reproduce": ["HEAD"]}.get(name, [])
    script = f"""
from commands import app
from pathlib import Path
app.command_line.enter(Path.cwd(), Path.cwd())
app.load({name!r})(args={words!r}, prog_name="etude")
"""
    done = on_windows(script, project)
    assert done.returncode, done.stdout
    told = (
        "error: Windows: flows need Linux or macOS. Next: use WSL; or `dvc repro`, which runs the same stages here one"
    )
    assert told in done.stderr


RELAUNCHED = """
import commands.windows, os, pathlib
sys.executable, sys.prefix = sys.argv[1], "somewhere"
commands.windows.provide_python3()
"""


def test_an_environment_on_windows_is_given_the_python3_that_dvc_yaml_calls(tmp_path: Path) -> None:
    (tmp_path / "python.exe").write_text("launcher", encoding="utf-8")
    for _ in range(2):
        done = on_windows(RELAUNCHED, tmp_path, str(tmp_path / "python.exe"))
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "python3.exe").read_text(encoding="utf-8") == "launcher"


def test_a_stage_that_another_python_goes_on_with_ends_as_that_one_ends(tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\nexit 7\n", encoding="utf-8")
    other.chmod(0o755)
    script = f"import tasks.shell as shell, pathlib; shell._continue_with(pathlib.Path({str(other)!r}))"
    assert on_windows(script, tmp_path).returncode == 7
