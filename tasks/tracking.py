"""What a command brought into the repository, handed to DVC."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from etude.errors import InputError

FOOTER = "Having any troubles?"  # what DVC adds to every error


def track(paths: Sequence[Path], action: str) -> None:
    """`dvc add` files and folders; raises InputError with DVC's reason and the next ``action``."""
    command = [sys.executable, "-m", "dvc", "add", "--quiet", *map(str, paths)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        told = [line.removeprefix("ERROR: ") for line in ran.stderr.splitlines() if line.strip()]
        reason = next((line for line in told if not line.startswith(FOOTER)), "no reason given")
        raise InputError(paths[0], f"is here, but `dvc add` failed ({reason})", action)
