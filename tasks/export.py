"""Write an artifact as the files that other programs load: ``artifacts/<method>/export/``."""

from __future__ import annotations

from pathlib import Path

from etude.files import replace_folder
from etude.method import load_method
from tasks import run
from tasks.console import say


def export(method: str) -> None:
    """Write METHOD's artifact in each of its formats."""
    module = load_method(method)
    from etude import artifact as artifacts
    from etude.formats import load_format

    made = artifacts.load(Path("artifacts", method, "build", "artifact.safetensors"))
    with replace_folder(Path("artifacts", method, "export")) as out:
        for name in module.formats:
            for path in load_format(name).write(made, out):
                say(f"{method}: artifacts/{method}/export/{path.name} ({name}, {path.stat().st_size:,} bytes)")


if __name__ == "__main__":
    run(export)
