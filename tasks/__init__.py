"""One step of work each, run as ``python -m tasks.<name>``."""

from __future__ import annotations

import errno
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


# What a machine may lack, which is no fault of the code, and what to do then.
_LACKS = {
    errno.ENOSPC: "free some space on that disk",
    errno.EDQUOT: "free some space, or ask for more",
    errno.EACCES: "give yourself the right to it",
    errno.EROFS: "use a folder that can be written",
}


def run(command: Callable[..., Any]) -> None:
    """Run a task's command line: check all parameters of the project first, then do the work.

    A fault in any params file stops every task before torch is imported and before anything is written. An
    EtudeError becomes one line on stderr and exit code 1; so does what the machine lacks: space, rights, memory.
    """
    import typer

    from etude.errors import EtudeError

    try:
        # Imported by name: the check must not make every stage depend on every schema.
        import_module("tasks.project").check(Path())
        typer.run(command)
    except EtudeError as error:
        told = str(error)
    except OSError as error:
        if error.errno not in _LACKS:
            raise
        told = f"{error.filename or 'disk'}: {error.strerror}. Next: {_LACKS[error.errno]}."
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which may not be imported yet
            raise
        told = "device: its memory is full. Next: lower `batch_size`, or choose `precision: bf16`."
    else:
        return
    sys.stderr.write(f"error: {told}\n")
    sys.exit(1)
