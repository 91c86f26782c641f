"""Record the digest of a model that a build reads: ``artifacts/<method>/inputs/<name>.json``, one for each model."""

from __future__ import annotations

from pathlib import Path

from etude.core.errors import ParamsError
from etude.core.files import sha256_tree, write_json
from etude.core.mixins import Models
from etude.core.params import nearest, pick
from tasks.shell import run
from tasks.shell.console import say


def digest(method: str, name: str) -> None:
    """Write the SHA-256 of the model that METHOD's params.yaml calls NAME in `models`."""
    own = f"pipelines/{method}/params.yaml"
    models = pick(own, Models).models
    if name not in models:
        raise ParamsError(own, f"`models` has no `{name}`{nearest(name, models)}", "correct `models`")
    path = models[name]
    sha256 = sha256_tree(path)
    write_json(Path("artifacts", method, "inputs", f"{name}.json"), {"path": path, "sha256": sha256})
    say(f"{method}: {name} is {path} ({sha256[:10]})")


if __name__ == "__main__":
    run(digest)
