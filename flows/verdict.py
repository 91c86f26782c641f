"""Whether two runs of a pipeline have the same outputs, and what differs.

This reads dvc.lock files and DVC's cache folder, whose formats are documented, and needs no DVC.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from etude.core.errors import EtudeError
from etude.core.tensors import read_header, read_metadata

IDENTICAL, CLOSE, DIFFERS, MISSING = "identical", "within tolerance", "differs", "not made"
ENVIRONMENT = ("versions", "cpu", "device", "threads")  # facts of an artifact about the machine that made it
SHOWN = 3  # differences shown for one output
Locks = dict[str, Mapping[str, Any]]  # stage → its entry in a dvc.lock


@dataclass(frozen=True)
class Verdict:
    """How one output (path from the root) of a stage compares with the recorded one, and what differs."""

    stage: str
    path: str
    verdict: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """A run of the pipeline: the entries of its dvc.lock files, and the cache folder with the content."""

    locks: Locks
    cache: Path

    def files(self, out: Mapping[str, Any]) -> dict[str, Path]:
        """The files of an output in the cache, by name or path in the folder; empty if its listing is missing."""
        digest = str(out.get("md5", ""))
        if not digest.endswith(".dir"):
            return {Path(out["path"]).name: self._object(digest)}
        listing = self._object(digest)
        entries = json.loads(listing.read_text()) if listing.exists() else []
        return {entry["relpath"]: self._object(entry["md5"]) for entry in entries}

    def _object(self, digest: str) -> Path:
        return self.cache / "files" / "md5" / digest[:2] / digest[2:]


def read_locks(root: Path) -> Locks:
    """The entries of the root's and the pipelines' dvc.lock files, by stage name relative to the root."""
    locks: Locks = {}
    for file in [root / "dvc.lock", *sorted(root.glob("pipelines/*/dvc.lock"))]:
        if file.exists():
            folder = file.parent.relative_to(root).as_posix()
            prefix = "" if folder == "." else f"{folder}/dvc.yaml:"
            stages = YAML(typ="safe").load(file.read_text()).get("stages", {})
            locks |= {f"{prefix}{name}": entry for name, entry in stages.items()}
    return locks


def judge(before: Run, after: Run, stages: Mapping[str, str], tolerance: float) -> list[Verdict]:
    """Compare every output of `stages` (name → label). Numbers may differ by `tolerance`, relative to the larger."""
    verdicts = []
    for name, label in stages.items():
        old, new = before.locks.get(name, {}), after.locks.get(name, {})
        causes = tuple(_causes(old, new))
        made = {out["path"]: out for out in new.get("outs", [])}
        for out in old.get("outs", []):
            other = made.get(out["path"])
            if other is None:
                verdicts.append(Verdict(label, out["path"], MISSING, causes))
            elif other.get("md5") == out.get("md5"):
                verdicts.append(Verdict(label, out["path"], IDENTICAL, causes))
            else:
                verdict, details = _compare(before.files(out), after.files(other), tolerance)
                verdicts.append(Verdict(label, out["path"], verdict, (*causes, *details)))
        if not old and new:
            verdicts += [Verdict(label, path, DIFFERS, ("no run of this stage was recorded",)) for path in made]
    return verdicts


def environments(before: Run, after: Run) -> list[str]:
    """What differs between the machines and packages of two runs, read from the artifacts' facts."""
    told: dict[str, None] = {}
    for name, old in before.locks.items():
        for out, new in zip(old.get("outs", []), after.locks.get(name, {}).get("outs", []), strict=False):
            for file in before.files(out).keys() & after.files(new).keys():
                if Path(file).name == "artifact.safetensors":
                    mine, other = _facts(before.files(out)[file]), _facts(after.files(new)[file])
                    if mine and other:
                        told |= dict.fromkeys(_changes(_environment(mine), _environment(other)))
    return list(told)


def _environment(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {key: facts.get(key) for key in ENVIRONMENT}


def _digests(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The dependencies of an entry in dvc.lock, with their hashes."""
    return {dep["path"]: dep.get("md5") for dep in entry.get("deps", [])}


def _causes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Parameters, dependencies and command that changed."""
    if old and new:
        yield from _changes(old.get("params", {}), new.get("params", {}))
        was, now = _digests(old), _digests(new)
        changed = (path for path in sorted(was.keys() | now.keys()) if was.get(path) != now.get(path))
        yield from (f"reads another {path}" for path in changed)
        if old.get("cmd") != new.get("cmd"):
            yield "its command changed"


def _changes(old: Any, new: Any, place: str = "") -> Iterator[str]:
    """`key a → b` for every value that differs between two nested mappings."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from _changes(old.get(key), new.get(key), f"{place}{'.' if place else ''}{key}")
    elif old != new:
        yield f"{place} {old} → {new}"


def _compare(old: Mapping[str, Path], new: Mapping[str, Path], tolerance: float) -> tuple[str, tuple[str, ...]]:
    if not all(path.exists() for path in (*old.values(), *new.values())) or not (old and new):
        return DIFFERS, ("its recorded content is not in the cache: only hashes were compared",)
    details = [f"{name} is {'missing' if name in old else 'new'}" for name in sorted(old.keys() ^ new.keys())]
    close = not details
    for name in sorted(old.keys() & new.keys()):
        if old[name].name != new[name].name or old[name].parent.name != new[name].parent.name:
            same, detail = _compare_files(name, old[name], new[name], tolerance)
            close = close and same
            details.append(f"{name}: {detail}")
    more = [f"and {len(details) - SHOWN} more"] if len(details) > SHOWN else []
    return CLOSE if close else DIFFERS, (*details[:SHOWN], *more)


def _compare_files(name: str, old: Path, new: Path, tolerance: float) -> tuple[bool, str]:
    """Whether two files hold the same numbers within a tolerance, and what differs."""
    if name.endswith((".json", ".csv", ".tsv")):
        far = _far(_values(name, old), _values(name, new), tolerance)
        return far is None, far or f"numbers differ by less than {tolerance:g}"
    if name.endswith(".safetensors"):
        changes = "; ".join(list(_changes(_facts(old), _facts(new)))[:SHOWN])
        try:
            equal = _weights(old) == _weights(new)
        except EtudeError as error:
            return False, str(error)
        return False, f"{'the same tensors, other facts' if equal else 'other tensors'}{': ' * bool(changes)}{changes}"
    return False, "its bytes differ"


def _values(name: str, file: Path) -> Any:
    text = file.read_text()
    if name.endswith(".json"):
        return json.loads(text)
    return list(csv.reader(io.StringIO(text), delimiter="\t" if name.endswith(".tsv") else ","))


def _far(old: Any, new: Any, tolerance: float, place: str = "") -> str | None:
    """The first place where two values differ, for numbers beyond a relative tolerance; None if they are the same."""
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        pairs = [(old[key], new[key], f"{place}.{key}") for key in old]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(a, b, f"{place}[{index}]") for index, (a, b) in enumerate(zip(old, new, strict=True))]
    else:
        try:
            same = old == new or math.isclose(float(old), float(new), rel_tol=tolerance)
        except (TypeError, ValueError):
            same = False
        return None if same else f"{place.lstrip('.') or 'it'} {old} → {new}"
    return next((far for a, b, where in pairs if (far := _far(a, b, tolerance, where))), None)


def _facts(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(read_metadata(file).get("etude", "{}")))
    except EtudeError:
        return {}


def _weights(file: Path) -> tuple[dict[str, Any], str]:
    """Names, types and shapes of a safetensors file's tensors, and a digest of their bytes; no metadata."""
    header = {name: entry for name, entry in read_header(file).items() if name != "__metadata__"}
    with file.open("rb") as data:
        data.seek(8 + int.from_bytes(data.read(8), "little"))
        return header, hashlib.file_digest(data, "sha256").hexdigest()
