"""Read what a method's training continues from, whatever its format: ``artifacts/<method>/sources/start/``.

For a method that starts from scratch, the folder contains only a note that says so.
"""

from __future__ import annotations

from pathlib import Path

from etude.core.files import write_json
from etude.core.method import load_method
from etude.core.params import Location, Schema, pick
from etude.training.sets import SOURCES
from etude.training.start import FILE, NOTHING
from tasks.shell import publish, run
from tasks.shell.console import say


class Wanted(Schema):
    """The part of a method's params.yaml that this stage depends on."""

    start: Location


def start(method: str) -> None:
    """Write the ``start`` of METHOD's params.yaml in the common form."""
    source = pick(Path("pipelines", method, "params.yaml"), Wanted).start
    with publish(Path("artifacts", method, SOURCES, "start")) as out:
        write_json(out / "start.json", {"start": source})  # DVC warns of an empty folder
        if source == NOTHING:
            say(f"{method}: starts from scratch")
            return
        from etude.base.whole import read_model
        from etude.core import artifact as artifacts
        from etude.formats.kinds import open_any

        pairs = "embedding_pair" in load_method(method).formats
        form, opened = open_any(Path(source), name="start", pairs=pairs, whole=read_model)
        artifacts.save(opened, out / FILE)
    say(f"{method}: goes on from {source} ({form}, {len(opened.tensors)} tensors)")


if __name__ == "__main__":
    run(start)
