"""Note what a file or folder holds: ``artifacts/<method>/inputs/<name>.json``, of any number that a build reads."""

from __future__ import annotations

from pathlib import Path

from etude.files import sha256_tree, write_json
from tasks import run
from tasks.console import say


def digest(method: str, name: str, path: str) -> None:
    """Write the SHA-256 of PATH, the model NAME of METHOD."""
    found = sha256_tree(path)
    write_json(Path("artifacts", method, "inputs", f"{name}.json"), {"path": path, "sha256": found})
    say(f"{method}: {name} is {path} ({found[:10]})")


if __name__ == "__main__":
    run(digest)
