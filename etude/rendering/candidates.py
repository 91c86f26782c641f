"""The candidates of a build: the untouched base, every checkpoint, and the final artifact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from etude.core.artifact import facts_of
from etude.core.errors import InputError

BASE = "base"
FINAL = "final"


@dataclass(frozen=True)
class Candidate:
    """The untouched base (``path`` None, step 0), or an artifact file after ``step`` steps (None: it has none)."""

    name: str  # "base", a step such as "000300", or "final"
    step: int | None
    path: Path | None = None
    final: bool = False  # the artifact that the build ended with


UNTOUCHED = Candidate(BASE, 0)


def candidates(build: Path) -> list[Candidate]:
    """The base, the checkpoints by step, and the final artifact, unless the last checkpoint has the same step.

    ``build`` is ``artifacts/<method>/build``. Raises InputError if it contains no artifact.
    """
    return [UNTOUCHED, *find_built(build)]


def find_built(build: Path) -> list[Candidate]:
    """The candidates without the base: checkpoints and the final artifact. The last one is the result of the build."""
    final = build / "artifact.safetensors"
    if not final.exists():
        raise InputError(final, "is missing", "run `dvc repro` so that the build stage makes it")
    paths = {facts_of(path)["step"]: path for path in sorted((build / "checkpoints").glob("*.safetensors"))}
    end = facts_of(final).get("step", max(paths, default=None))
    rows = [Candidate(f"{step:06d}", step, paths[step], final=step == end) for step in sorted(paths)]
    if end not in paths:
        rows.append(Candidate(FINAL, end, final, final=True))
    return rows
