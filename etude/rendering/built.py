"""What was built here, as command lines name it: `lora`, `lora@160` (after 160 steps), `lora@best`."""

from __future__ import annotations

from pathlib import Path

from etude.core.errors import InputError
from etude.core.files import read_json
from etude.core.method import method_names
from etude.core.params import nearest

ARTIFACTS = Path("artifacts")
BEST, FINAL = "best", "final"


def find_path(what: str | Path) -> Path:
    """The file or folder that ``what`` names: on this machine, or built here.

    Raises InputError where there is none; for a step that is no checkpoint's it names those that there are.
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
        what, f"is no method{nearest(method, method_names())} and no file here", "name a file, or a method"
    )


def best_of(method: str) -> str:
    """The name of a method's best checkpoint, or of its final artifact, by its evaluation; raises InputError."""
    return str(read_json(ARTIFACTS / method / "best.json")["checkpoint"])


def _built(what: str, method: str, step: str) -> Path:
    from etude.rendering.candidates import find_made

    build = ARTIFACTS / method / "build"
    final = build / "artifact.safetensors"
    if not final.exists():
        raise InputError(final, "is missing", f"run `dvc repro pipelines/{method}/dvc.yaml:build`, or name another")
    name = best_of(method) if step == BEST else f"{int(step):06d}" if step.isdecimal() else step
    if name == FINAL:
        return final
    known = [candidate for candidate in find_made(build) if candidate.name != FINAL]
    for candidate in known:
        if candidate.name == name and candidate.path:
            return candidate.path
    if not known:
        raise InputError(what, f"{method} has no checkpoints", f"write {method}")
    steps = ", ".join(str(candidate.step) for candidate in known)
    raise InputError(what, f"`{step}` is no step of its checkpoints: {steps}", f"write {method}@{known[-1].step}")
