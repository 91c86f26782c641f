"""Repair DVC's files that a kill cut short while DVC wrote them: DVC then refuses them every time.

Call these under DVC's lock of the repository, when nobody else writes the files.
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
    """Delete a table of busy paths that is cut short: DVC then begins with an empty one."""
    try:
        json.loads(table.read_text(encoding="utf-8"))
    except FileNotFoundError:
        pass
    except ValueError:
        table.unlink()


def repair_locks(root: Path) -> None:
    """Replace a `dvc.lock` that is cut short by git's last version, or delete it if git has none.

    Its other entries come back from the run-cache; the cut file is kept in `.scratch/cut`. A file that ends with a
    newline is not cut short and stays, even with merge conflict markers in it.
    """
    for lock in (file for pattern in LOCKS for file in root.glob(pattern)):
        if lock.stat().st_size and _ends_with_its_line(lock):
            continue
        name = lock.relative_to(root).as_posix()
        git = subprocess.run(["git", "show", f"HEAD:./{name}"], cwd=root, capture_output=True, check=False)
        if git.returncode == 0 and git.stdout and lock.read_bytes() == git.stdout.rstrip(b"\n"):
            continue  # complete: an editor saved it without the last newline
        kept = root / ".scratch" / "cut" / f"{name}.cut"  # not named dvc.lock, so that DVC never takes it for one
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
    """Remove the empty folders of a run-cache: DVC makes a folder before its entry, and fails at an empty folder.

    New folders stay: another checkout that shares the cache may be about to write there.
    """
    for folder in runs.glob("*/*"):
        with suppress(OSError):  # the folder holds an entry, or is gone
            if folder.stat().st_mtime < time.time() - WRITING:
                folder.rmdir()


def _ends_with_its_line(file: Path) -> bool:
    with file.open("rb") as content:
        content.seek(-1, 2)
        return content.read(1) == b"\n"
