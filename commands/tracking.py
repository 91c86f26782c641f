"""Let DVC track what a command brought into the repository."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from etude.core.errors import InputError

FOOTER = "Having any troubles?"  # what DVC adds to every error
NO_GIT = "this is a copy without .git, where DVC keeps no records"
BEGIN = 'run `git init && git add -A && git commit -m "start"` here and then this again, or work in a clone'


def track(paths: Sequence[Path], action: str) -> None:
    """`dvc add` files and folders; raises InputError with DVC's reason and the next ``action``."""
    ran = _dvc("add", *map(str, paths))
    if ran.returncode:
        told = [line.removeprefix("ERROR: ") for line in ran.stderr.splitlines() if line.strip()]
        reason = next((line for line in told if not line.startswith(FOOTER)), "no reason given")
        if not Path(".git").exists():
            reason, action = NO_GIT, BEGIN
        raise InputError(paths[0], f"is here, but `dvc add` failed ({reason})", action)


def restore(path: Path) -> bool:
    """Restore what a ``.dvc`` file records from DVC's cache, without network; returns whether it exists now."""
    if _dvc("checkout", f"{path}.dvc").returncode and path.is_dir() and not any(path.iterdir()):
        path.rmdir()
    return path.exists()


def _dvc(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dvc", words[0], "--quiet", *words[1:]]
    return subprocess.run(command, capture_output=True, text=True, check=False)
