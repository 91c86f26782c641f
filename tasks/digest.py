"""Record the digest of a model that a build reads: ``artifacts/<method>/inputs/<name>.json``, one for each model."""

from __future__ import annotations

from pathlib import Path

from etude.core.mixins import Models
from etude.core.params import pick
from tasks.shell import run
from tasks.shell.digests import record_digest


def digest(method: str, name: str) -> None:
    """Write the SHA-256 of the model that METHOD's params.yaml calls NAME in `models`."""
    own = f"pipelines/{method}/params.yaml"
    record_digest(Path("artifacts", method, "inputs"), name, pick(own, Models).models, own, "models")


if __name__ == "__main__":
    run(digest)
