"""Entries of dvc.lock that a stage did not see: what is compared, and what is taken back. DVC itself is not run."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dvc.exceptions import DvcException
from ruamel.yaml import YAML

from etude.core.errors import StaleError
from etude.watch.looks import receipt
from flows import record as module
from flows.record import Record
from tests.flows.conftest import Calls

NAME = "pipelines/lora/dvc.yaml:build"
OLD: dict[str, Any] = {"cmd": "c", "deps": [{"path": "in", "md5": "1"}]}
NEW: dict[str, Any] = {"cmd": "c", "deps": [{"path": "in", "md5": "2"}], "params": {"p.yaml": {"rank": 4}}}


def write(root: Path, **stages: Any) -> Path:
    lock = root / "pipelines/lora/dvc.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    YAML().dump({"schema": "2.0", "stages": stages}, lock)
    return lock


class Saw:
    """What a stage saw: changes of parameters and of files since then."""

    def __init__(self, params: list[str], files: list[str]) -> None:
        self.params, self.files, self.asked = params, files, Calls()

    def other_params(self, recorded: Any) -> list[str]:
        self.asked(recorded)
        return self.params

    def changed_files(self) -> list[str]:
        return self.files


def dep(path: str, value: str) -> Any:
    return SimpleNamespace(def_path=path, get_hash=lambda: SimpleNamespace(value=value))


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """DVC's view of the repository: `now` are the present hashes of the stage's deps, `place` its run-cache entry."""
    repo = SimpleNamespace(now=[dep("in", "2")], place=tmp_path / "runs/ab/entry", loaded=Calls())

    def load_one(file: str, name: str) -> Any:
        repo.loaded(file, name)
        if repo.now is None:
            raise DvcException("cannot be read")
        return SimpleNamespace(deps=repo.now)

    repo.stage = SimpleNamespace(load_one=load_one)
    repo.stage_cache = SimpleNamespace(_get_cache_path=lambda key, value: str(repo.place))
    monkeypatch.setattr(module, "locked_repo", lambda root: nullcontext(repo))
    monkeypatch.setattr(module, "_get_cache_hash", lambda entry, key=False: key)
    repo.place.parent.mkdir(parents=True)
    repo.place.touch()
    return repo


def saw(monkeypatch: pytest.MonkeyPatch, root: Path, params: list[str], files: list[str]) -> Saw:
    seen = Saw(params, files)
    (root / receipt(NAME)).parent.mkdir(parents=True, exist_ok=True)
    (root / receipt(NAME)).touch()
    monkeypatch.setattr(module.Look, "read", lambda *_: seen)
    return seen


@pytest.mark.parametrize(
    ("params", "files", "now", "said"),
    [
        ([], [], "2", ""),
        (["p.yaml: rank (3 → 4)"], ["a.png"], "2", r"rank \(3 → 4\).*a\.png"),
        ([], ["a.png"], "2", r"a\.png"),
        ([], [], "3", "^in: changed"),  # DVC recorded what is no longer there
    ],
)
def test_a_record_is_true_where_the_stage_saw_what_dvc_wrote(
    params: list[str], files: list[str], now: str, said: str, tmp_path: Path, repo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = write(tmp_path, build=OLD, other=OLD)
    record = Record(tmp_path, NAME)
    write(tmp_path, build=NEW, other=OLD)
    seen, repo.now = saw(monkeypatch, tmp_path, params, files), [dep("in", now), dep("later", "9")]
    if not said:
        record.check()
        assert YAML(typ="safe").load(lock)["stages"] == {"build": NEW, "other": OLD}
        assert repo.place.exists()
    else:
        with pytest.raises(StaleError, match=said):
            record.check()
        assert YAML(typ="safe").load(lock)["stages"] == {"build": OLD, "other": OLD}
        assert not repo.place.parent.exists()  # DVC would fail at an empty folder
    assert seen.asked == [(NEW["params"],)]
    if not params and not files:
        assert repo.loaded == [(str(tmp_path / "pipelines/lora/dvc.yaml"), "build")]


def test_a_false_record_without_one_before_it_is_removed_and_an_empty_lock_too(
    tmp_path: Path, repo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repo.place.parent / "other").touch()
    record = Record(tmp_path, NAME)
    assert record.before is None
    lock = write(tmp_path, build=NEW, other=OLD)
    saw(monkeypatch, tmp_path, [], ["a.png"])
    with pytest.raises(StaleError):
        record.check()
    assert YAML(typ="safe").load(lock)["stages"] == {"other": OLD}
    assert [file.name for file in repo.place.parent.iterdir()] == ["other"]
    write(tmp_path, build=NEW)
    record = Record(tmp_path, NAME)  # of a run that this flow waited for: it is the same entry
    assert record.before == NEW
    with pytest.raises(StaleError):
        record.check()
    assert not lock.exists()


def test_nothing_is_checked_without_a_receipt_or_an_entry_or_where_dvc_cannot_read(
    tmp_path: Path, repo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, build=NEW)
    record = Record(tmp_path, NAME)
    record.check()
    assert repo.loaded == []
    saw(monkeypatch, tmp_path, [], [])
    repo.now = None
    record.check()
    assert len(repo.loaded) == 1
    write(tmp_path, other=NEW)
    saw(monkeypatch, tmp_path, ["p.yaml: rank"], ["a.png"])
    record.check()
    record.begin()
    assert not record.seen.exists()
    record.begin()


def test_a_record_is_in_the_lock_beside_its_file(tmp_path: Path) -> None:
    for name, file, key in ((NAME, "pipelines/lora/dvc.yaml", "build"), ("prepare@a", "dvc.yaml", "prepare@a")):
        record = Record(tmp_path, name)
        assert (record.file, record.key) == (file, key)
        assert record.lock == (tmp_path / file).with_name("dvc.lock")
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\n")
    assert Record(tmp_path, "prepare@a").before is None
