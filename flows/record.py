"""Compare DVC's record of a stage with what the stage read; remove the record if it is false.

A stage looks at its inputs for the last time as it ends. DVC then reads deps and params once more, and records what is
there now: it would record an edit in between as an input of the result, and restore the result for it later.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dvc.dependency.param import ParamsDependency
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.stage.cache import _get_cache_hash  # no public way to an entry of the run-cache
from dvc.utils.serialize import load_yaml, modify_yaml

from etude.watch.looks import Look, receipt, refuse
from flows.plan import PROJECT_FILE
from flows.repository import locked_repo


class Record:
    """DVC's record of one stage: made before the stage runs, and checked after DVC has written its entry."""

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root, name
        file, _, self.key = name.rpartition(":")
        self.file = file or PROJECT_FILE
        self.lock = (root / self.file).with_suffix(".lock")
        self.seen = root / receipt(name)
        self.before = self._entry()

    def begin(self) -> None:
        """Forget what an earlier run of the stage saw."""
        self.seen.unlink(missing_ok=True)

    def check(self) -> None:
        """Raise StaleError if DVC recorded other inputs than the stage read.

        DVC's lock is then restored, and the entry in its run-cache removed. A stage without a receipt is not
        checked: its program is not one of this project.
        """
        if not self.seen.exists():
            return
        look = Look.read(self.seen, self.root)
        with locked_repo(self.root) as repo:
            entry = self._entry()
            if entry is not None and (changes := self._false(repo, entry, look)):
                self._undo(repo, entry)
                refuse(changes)

    def _entry(self) -> dict[str, Any] | None:
        """The stage's entry in the lock."""
        stages: Mapping[str, Any] = (load_yaml(str(self.lock)) if self.lock.exists() else {}).get("stages") or {}
        return dict(stages[self.key]) if self.key in stages else None

    def _false(self, repo: Repo, entry: Mapping[str, Any], look: Look) -> list[str]:
        """What DVC recorded and the stage did not see; in doubt also what changed since the stage saw it."""
        changes = [*look.other_params(entry.get("params", {})), *look.changed_files()]
        if changes:
            return changes
        recorded = {dep["path"]: dep.get("md5") for dep in entry.get("deps", [])}
        try:
            stage = repo.stage.load_one(str(self.root / self.file), self.key)
            deps = [dep for dep in stage.deps if not isinstance(dep, ParamsDependency)]
            now = {dep.def_path: dep.get_hash().value for dep in deps}
        except DvcException:  # params or dvc.yaml cannot be read any more
            return []
        return sorted(path for path, value in recorded.items() if now.get(path, value) != value)

    def _undo(self, repo: Repo, entry: dict[str, Any]) -> None:
        cache = repo.stage_cache
        place = Path(cache._get_cache_path(_get_cache_hash(dict(entry), key=True), _get_cache_hash(dict(entry))))
        place.unlink(missing_ok=True)
        with suppress(OSError):  # missing or not empty; DVC would fail at an empty folder
            place.parent.rmdir()
        with modify_yaml(str(self.lock)) as data:
            if self.before in (None, entry):  # the same entry: a run that we waited for wrote it
                del data["stages"][self.key]
            else:
                data["stages"][self.key] = self.before
            left = bool(data["stages"])
        if not left:
            self.lock.unlink()
