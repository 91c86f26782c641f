"""Whether two runs made the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.core.tensors import write_tensors
from flows.verdict import CLOSE, DIFFERS, IDENTICAL, MISSING, Run, environments, judge, read_locks


def make_run(folder: Path, files: dict[str, bytes], params: dict[str, Any] | None = None, listed: bool = True) -> Run:
    """A run of one stage with one output folder, and its cache as DVC lays it out."""

    def keep(data: bytes, suffix: str = "") -> str:
        digest = hashlib.md5(data).hexdigest() + suffix
        path = folder / "files/md5" / digest[:2] / digest[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return digest

    entries = [{"relpath": name, "md5": keep(data)} for name, data in sorted(files.items())]
    digest = keep(json.dumps(entries).encode(), ".dir")
    if not listed:
        (folder / "files/md5" / digest[:2] / digest[2:]).unlink()
    return Run({"s": {"cmd": "c", "params": params or {}, "outs": [{"path": "out", "md5": digest}]}}, folder)


def verdict(before: Run, after: Run, tolerance: float = 1e-3) -> tuple[str, str]:
    (found,) = judge(before, after, {"s": "stage"}, tolerance)
    assert (found.stage, found.path) == ("stage", "out")
    return found.verdict, "; ".join(found.details)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "before", tmp_path / "after"


def test_equal_hashes_are_identical(folders: tuple[Path, Path]) -> None:
    before, after = (make_run(folder, {"a.json": b"1"}) for folder in folders)
    assert verdict(before, after) == (IDENTICAL, "")


def test_numbers_may_differ_by_the_tolerance_and_no_more(folders: tuple[Path, Path]) -> None:
    old = {"metrics.json": b'{"clip": [0.5, "x"], "n": 3}', "table.csv": b"step,loss\n1,0.25\n"}
    new = {"metrics.json": b'{"clip": [0.5001, "x"], "n": 3}', "table.csv": b"step,loss\n1,0.2501\n"}
    before, after = make_run(folders[0], old), make_run(folders[1], new)
    assert verdict(before, after)[0] == CLOSE
    kind, details = verdict(before, after, tolerance=1e-6)
    assert kind == DIFFERS
    assert "metrics.json: clip[0] 0.5 → 0.5001" in details


@pytest.mark.parametrize("new", [b'{"clip": "good"}', b'{"clap": 0.5}', b'{"clip": [0.5]}'])
def test_other_keys_or_kinds_of_values_differ(folders: tuple[Path, Path], new: bytes) -> None:
    before, after = make_run(folders[0], {"m.json": b'{"clip": 0.5}'}), make_run(folders[1], {"m.json": new})
    assert verdict(before, after)[0] == DIFFERS


def test_missing_new_and_changed_files_are_named(folders: tuple[Path, Path]) -> None:
    before = make_run(folders[0], {"a.png": b"1", "b.png": b"1", "c.png": b"1"})
    after = make_run(folders[1], {"a.png": b"2", "b.png": b"1", "d.png": b"1"})
    assert verdict(before, after) == (DIFFERS, "c.png is missing; d.png is new; a.png: its bytes differ")


def test_the_parameter_behind_a_difference_is_named(folders: tuple[Path, Path]) -> None:
    before = make_run(folders[0], {"a.png": b"1"}, {"params.yaml": {"rank": 4}})
    after = make_run(folders[1], {"a.png": b"2"}, {"params.yaml": {"rank": 8}})
    assert verdict(before, after) == (DIFFERS, "params.yaml.rank 4 → 8; a.png: its bytes differ")


def test_recorded_content_that_is_not_here_leaves_only_hashes(folders: tuple[Path, Path]) -> None:
    before, after = make_run(folders[0], {"a": b"1"}, listed=False), make_run(folders[1], {"a": b"2"})
    kind, details = verdict(before, after)
    assert kind == DIFFERS
    assert "only hashes were compared" in details


def test_an_output_that_was_not_made_is_not_called_different(folders: tuple[Path, Path]) -> None:
    before = make_run(folders[0], {"a": b"1"})
    assert verdict(before, Run({}, folders[1]))[0] == MISSING


def test_equal_weights_from_another_environment_are_told_apart_from_other_weights(folders: tuple[Path, Path]) -> None:
    def artifact(path: Path, value: float, torch_version: str) -> bytes:
        path.parent.mkdir(exist_ok=True)
        facts = {"versions": {"torch": torch_version}, "cpu": "x86_64 AVX2", "seed": 0}
        write_tensors(path, {"row": torch.full((2,), value)}, {"etude": json.dumps(facts)})
        return path.read_bytes()

    old = artifact(folders[0] / "old", 1.0, "2.12")
    for value, word in ((1.0, "the same tensors, other facts: "), (2.0, "other tensors: ")):
        new = artifact(folders[1] / "new", value, "2.13")
        before = make_run(folders[0], {"artifact.safetensors": old})
        after = make_run(folders[1], {"artifact.safetensors": new})
        kind, details = verdict(before, after)
        assert kind == DIFFERS
        assert f"artifact.safetensors: {word}versions.torch 2.12 → 2.13" in details
        assert environments(before, after) == ["versions.torch 2.12 → 2.13"]


def test_the_environments_of_stages_that_only_one_of_the_runs_made_are_left_out(folders: tuple[Path, Path]) -> None:
    before, after = (make_run(folder, {"a.json": b"1"}) for folder in folders)
    after.locks["s"]["outs"].append({"path": "more", "md5": "0" * 32})
    before.locks["t"] = before.locks["s"]
    assert environments(before, after) == environments(after, before) == []


def test_locks_are_read_by_the_names_that_stages_have_from_the_root(tmp_path: Path) -> None:
    (tmp_path / "pipelines/lora").mkdir(parents=True)
    for file in ("dvc.lock", "pipelines/lora/dvc.lock"):
        (tmp_path / file).write_text("schema: '2.0'\nstages: {build: {cmd: x}}\n")
    assert set(read_locks(tmp_path)) == {"build", "pipelines/lora/dvc.yaml:build"}
