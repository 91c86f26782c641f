"""What Windows lacks, of what dvc.yaml takes for granted. README.md says how to set up there.

Every stage is started as `python3 -m tasks.…`, the same text on all systems, as dvc.lock records it. A virtual
environment on Windows has a `python.exe` alone, so a `python3.exe` is put beside it. Names in '…', which Windows' shell
hands on as they are, are freed of them in `tasks.shell`, as is the other way to continue with another Python.
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
