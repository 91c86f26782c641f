"""`--help` of every command shows how the command is used, and does nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EVERY = """
import contextlib, io, runpy, sys
for name in sys.argv[1:]:
    told, sys.argv = io.StringIO(), [name, "--help"]
    with contextlib.redirect_stdout(told):
        try:
            runpy.run_module(name, run_name="__main__")
        except SystemExit as end:
            assert not end.code, (name, end.code)
    assert "Usage:" in told.getvalue(), (name, told.getvalue())
"""


def test_help_of_every_command_tells_and_writes_and_starts_nothing(root: Path, tmp_path: Path) -> None:
    files = [
        file
        for folder in ("tasks", "commands", "flows", "evidence", "miniature", "benchmarks")
        for file in (root / folder).rglob("*.py")
    ]
    commands = [
        ".".join(file.relative_to(root).with_suffix("").parts)
        for file in sorted(files)
        if '__name__ == "__main__"' in file.read_text()
    ]
    assert {"tasks.build", "flows.settings", "flows.server_process", "miniature.card"} <= set(commands)
    env = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", EVERY, *commands]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
