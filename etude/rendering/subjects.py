"""What draws: the untouched base, every checkpoint of a build, and its final artifact."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etude.artifact import KEY
from etude.errors import FormatError, InputError
from etude.files import read_metadata

BASE = "base"
FINAL = "final"


@dataclass(frozen=True)
class Subject:
    """The untouched base (``path`` None, step 0), or an artifact file after ``step`` steps (None: it has none)."""

    name: str  # "base", a step such as "000300", or "final"
    step: int | None
    path: Path | None = None
    final: bool = False  # the artifact that the build ended with


UNTOUCHED = Subject(BASE, 0)


def facts_of(path: Path) -> dict[str, Any]:
    """The facts in an artifact's header; its tensors are not read."""
    try:
        facts = json.loads(read_metadata(path)[KEY])
    except (KeyError, json.JSONDecodeError) as error:
        raise FormatError(path, "is not an artifact of Étude", "run `dvc repro` to build it again") from error
    return dict(facts)


def subjects(build: Path) -> list[Subject]:
    """The base, then the checkpoints by step, then the final artifact, unless the last checkpoint is of its step.

    ``build`` is ``artifacts/<method>/build``. Raises InputError when it holds no artifact.
    """
    final = build / "artifact.safetensors"
    if not final.exists():
        raise InputError(final, "is missing", "run `dvc repro` so that the build stage makes it")
    found = {facts_of(path)["step"]: path for path in sorted((build / "checkpoints").glob("*.safetensors"))}
    end = facts_of(final).get("step", max(found, default=None))
    rows = [Subject(f"{step:06d}", step, found[step], final=step == end) for step in sorted(found)]
    if end not in found:
        rows.append(Subject(FINAL, end, final, final=True))
    return [UNTOUCHED, *rows]
