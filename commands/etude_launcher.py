"""The command `etude`, as `make setup` installs it: it finds the checkout around the current folder, and runs its code.

Nothing else of Étude is installed: one environment serves any number of clones and worktrees, each with its own code.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

NAMED = re.compile(r'^name = "etude"$', re.MULTILINE)  # in pyproject.toml
FIRST = "commands/app.py"  # the file that is run


def main() -> None:
    """Run ``commands.app`` of the checkout around the current folder."""
    root = find_checkout(Path.cwd())
    if root is None:
        if "_ETUDE_COMPLETE" in os.environ:
            sys.exit(1)  # a shell completes a word: there is nothing to offer
        sys.exit(f"error: {Path.cwd()}: is in no clone of Étude. Next: change into one, or `git clone` one.")
    if not (root / FIRST).exists():
        sys.exit(f"error: {root}: this checkout is older than `etude`. Next: run what its README says.")
    sys.path.insert(0, str(root))
    from commands.app import main as start

    start(root, Path.cwd())


def find_checkout(folder: Path) -> Path | None:
    """The nearest checkout of Étude that contains ``folder`` or is ``folder``; a worktree or a copy also counts."""
    for root in (folder, *folder.parents):
        file = root / "pyproject.toml"
        if file.is_file() and NAMED.search(file.read_text(encoding="utf-8", errors="replace")):
            return root
    return None
