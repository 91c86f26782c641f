"""Artifacts of this project by their names on the command line: `lora`, `lora@160` (step 160), `lora@best`."""

from __future__ import annotations

from pathlib import Path

from etude.core.errors import InputError
from etude.core.files import read_json
from etude.core.method import method_names
from etude.core.params import nearest

ARTIFACTS = Path("artifacts")
BEST, FINAL = "best", "final"


def find_path(what: str | Path) -> Path:
    """The path of an artifact: ``what`` is a method (`lora`, `lora@160`, `lora@best`), or a path itself.

    Raises InputError if it does not exist; if a method has no checkpoint at that step, the error lists the steps.
    """
    what = str(what)
    method, at, step = what.partition("@")
    path = Path(what).expanduser()
    if method in method_names() and not path.is_file():
        return _built(what, method, step if at else FINAL)
    if path.exists():
        return path
    if path.suffix or len(path.parts) > 1:
        raise InputError(what, "is missing", "check the path")
    raise InputError(
        what,
        f"is no method{nearest(method, method_names())} and no file here",
        "give the path of a file, or the name of a method",
    )


def best_of(method: str) -> str:
    """The name of a method's best checkpoint (may be the final artifact), from its evaluation; raises InputError."""
    return str(read_json(ARTIFACTS / method / "best.json")["checkpoint"])


def _built(what: str, method: str, step: str) -> Path:
    from etude.rendering.candidates import find_built

    build = ARTIFACTS / method / "build"
    final = build / "artifact.safetensors"
    if not final.exists():
        raise InputError(
            final, "is missing", f"run `dvc repro pipelines/{method}/dvc.yaml:build`, or give another method"
        )
    name = best_of(method) if step == BEST else f"{int(step):06d}" if step.isdecimal() else step
    if name == FINAL:
        return final
    checkpoints = [candidate for candidate in find_built(build) if candidate.name != FINAL]
    for candidate in checkpoints:
        if candidate.name == name and candidate.path:
            return candidate.path
    if not checkpoints:
        raise InputError(what, f"{method} has no checkpoints", f"write {method}")
    steps = ", ".join(str(candidate.step) for candidate in checkpoints)
    raise InputError(what, f"`{step}` is no step of its checkpoints: {steps}", f"write {method}@{checkpoints[-1].step}")
