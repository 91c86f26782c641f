"""Provide on Windows what dvc.yaml expects. README.md describes the setup there.

Every stage starts as `python3 -m tasks.…`, the same text on all systems, since dvc.lock records it. A virtual
environment on Windows has only a `python.exe`, so a `python3.exe` is put beside it. Windows' shell does not remove the
quotes of names in '…': `tasks.shell` removes them, and also continues in another Python in Windows' own way.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def provide_python3() -> None:
    """Put a copy of this environment's python.exe beside it, called python3.exe, unless one is there."""
    python = Path(sys.executable)
    if sys.prefix != sys.base_prefix and not (copy := python.with_name("python3.exe")).exists():
        shutil.copy(python, copy)
