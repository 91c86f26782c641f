"""Record the content of another image set that a method also learns: ``artifacts/<method>/sources/<set>.json``."""

from __future__ import annotations

from pathlib import Path

from etude.core.files import write_json
from etude.core.params import Schema, SetName, pick
from etude.training.sets import SOURCES
from tasks.shell import look_of, run
from tasks.shell.console import say
from tasks.shell.digests import forget_others


class Wanted(Schema):
    """The part of a method's params.yaml that this stage depends on."""

    further_sets: dict[SetName, int]


def further_set(method: str, name: str) -> None:
    """Write the SHA-256 of what METHOD reads of the image set NAME, one of its `further_sets`."""
    own, folder = Path("pipelines", method), Path("artifacts", method, SOURCES)
    forget_others(folder, pick(own / "params.yaml", Wanted).further_sets)
    digests = look_of(own / "dvc.yaml", f"further_set@{name}").digests()
    write_json(folder / f"{name}.json", {path: sha for path, sha in digests.items() if path.startswith("data/")})
    say(f"{method}: learns from {name}, too")


if __name__ == "__main__":
    run(further_set)
