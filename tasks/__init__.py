"""One step of work each, run as ``python -m tasks.<name>``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

# `.venv/bin/dvc repro` without an activated environment runs stages with the system's Python: continue with ours.
_VENV = Path(__file__).parent.parent / ".venv"
_PYTHON = _VENV / "bin" / "python3"
if sys.prefix == sys.base_prefix and "CONDA_PREFIX" not in os.environ and _PYTHON.exists():
    os.execv(_PYTHON, [str(_PYTHON), *sys.orig_argv[1:]])


def run(command: Callable[..., Any]) -> None:
    """Run a task's command line: check all parameters of the project first, then do the work.

    A fault in any params file stops every task before torch is imported and before anything is written. An
    EtudeError becomes one line on stderr and exit code 1.
    """
    import typer

    from etude.errors import EtudeError

    try:
        # Imported by name: the check must not make every stage depend on every schema.
        import_module("tasks.project").check(Path())
        typer.run(command)
    except EtudeError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
