"""Files of DVC that a kill cut short while DVC wrote them, which DVC then refuses for ever.

To call where nobody else writes them: under DVC's lock of the repository.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from etude.core.files import atomic_path

LOCKS = ("dvc.lock", "*/dvc.lock", "*/*/dvc.lock")
WRITING = 5.0  # seconds that DVC may need between making a folder and writing into it


def repair_table(table: Path) -> None:
    """Start an empty table of busy paths where the one that is there is cut short."""
    try:
        json.loads(table.read_text(encoding="utf-8"))
    except FileNotFoundError:
        pass
    except ValueError:
        table.unlink()


def repair_locks(root: Path) -> None:
    """Put git's last version in the place of a `dvc.lock` that is cut short, or nothing where git has none.

    What it said besides comes back from the run-cache; what is left of it is kept in `.scratch/cut`. What people leave
    in a lock (the marks of a merge) ends with its line, and stays.
    """
    for lock in (file for pattern in LOCKS for file in root.glob(pattern)):
        if lock.stat().st_size and _ends_with_its_line(lock):
            continue
        name = lock.relative_to(root).as_posix()
        git = subprocess.run(["git", "show", f"HEAD:./{name}"], cwd=root, capture_output=True, check=False)
        if git.returncode == 0 and git.stdout and lock.read_bytes() == git.stdout.rstrip(b"\n"):
            continue  # whole: an editor saved it without its last newline
        kept = root / ".scratch" / "cut" / f"{name}.cut"  # a name that is no lock's, here too
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(lock, kept)
        if git.returncode == 0 and git.stdout:
            with atomic_path(lock) as temporary:
                temporary.write_bytes(git.stdout)
        else:
            lock.unlink()
        said = f"what git has is in its place, what was left is in {kept.relative_to(root)}"
        sys.stderr.write(f"warning: {name} was cut short by a kill; {said}\n")


def repair_runs(runs: Path) -> None:
    """Remove the empty folders of a run-cache: DVC makes one before it writes the entry, and ends at it if none came.

    Folders made just now stay: another checkout that shares the cache may be about to write there.
    """
    for folder in runs.glob("*/*"):
        with suppress(OSError):  # it holds an entry, or is gone
            if folder.stat().st_mtime < time.time() - WRITING:
                folder.rmdir()


def _ends_with_its_line(file: Path) -> bool:
    with file.open("rb") as content:
        content.seek(-1, 2)
        return content.read(1) == b"\n"
