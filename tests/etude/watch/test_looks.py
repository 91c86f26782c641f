"""What counts as a change between two looks, and what does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from etude.core import store
from etude.core.errors import StaleError
from etude.watch.looks import Look, receipt, refuse, values_of

DAY = 24 * 3600


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small and a large file, and params; all settled for long."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "SETTLED", -1.0)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/small").write_bytes(b"small")
    (tmp_path / "data/large").write_bytes(b"l" * store.REMEMBERED)
    (tmp_path / "params.yaml").write_text("a: 1\nb: {c: [1, 2], d: .inf}\nother: 0\n")
    for file in (tmp_path / "data/small", tmp_path / "data/large"):
        set_back(file)
    return tmp_path


def set_back(file: Path) -> None:
    os.utime(file, (DAY, DAY))


def look() -> Look:
    return Look(["data"], {"params.yaml": ["a", "b.c", "b.d"]})


def rewrite(file: Path, content: bytes) -> None:
    with file.open("r+b") as open_file:
        open_file.write(content)


def test_a_written_file_is_the_same_where_its_content_is_known_to_be(folder: Path) -> None:
    seen = look()
    rewrite(folder / "data/small", b"small")
    assert seen.changed() == []
    rewrite(folder / "data/large", b"l")  # nobody knows what it held
    assert seen.changed() == ["data/large"]
    seen = look()
    seen.digests()
    rewrite(folder / "data/large", b"l")
    assert seen.changed() == []
    rewrite(folder / "data/large", b"x")
    assert seen.changed() == ["data/large"]


def test_the_digests_of_a_look_are_of_its_moment_once_they_are_taken(folder: Path) -> None:
    seen = look()
    before = seen.digests()
    rewrite(folder / "data/small", b"other")
    assert seen.digests() == before != look().digests()


def test_a_change_that_hides_its_size_and_time_is_seen(folder: Path) -> None:
    seen = look()
    for name in ("small", "large"):
        rewrite(folder / "data" / name, b"x")
        set_back(folder / "data" / name)
    assert seen.changed() == ["data/large", "data/small"]


def test_another_name_of_a_file_changes_nothing(folder: Path) -> None:
    seen = look()
    os.link(folder / "data/large", folder / "linked")
    assert seen.changed() == []
    assert look().changed() == []


def test_a_write_a_moment_after_the_look_is_seen_though_the_clock_does_not_tell(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SETTLED", 3.0)
    (folder / "data/large").write_bytes(b"m" * store.REMEMBERED)
    seen = look()
    stat = (folder / "data/large").stat()
    rewrite(folder / "data/large", b"x")
    os.utime(folder / "data/large", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert seen.changed() == ["data/large"]


def test_parameters_are_compared_as_values(folder: Path) -> None:
    seen = look()
    (folder / "params.yaml").write_text("other: 5\nb: {d: .inf, c: [1, 2]} # the same\na: 1\n")
    assert seen.changed() == []
    (folder / "params.yaml").write_text("a: 1.0\nb: {c: [1, 3]}\n")
    assert seen.changed() == [
        "params.yaml: a (1 → 1.0)",
        "params.yaml: b.c ([1, 2] → [1, 3])",
        'params.yaml: b.d ("inf" → (missing))',
    ]
    (folder / "params.yaml").write_text("a: [\n")
    with pytest.raises(StaleError, match="^params.yaml: .*: changed while this stage ran. Next: run `dvc repro` again"):
        seen.refuse_changed()


def test_what_is_missing_may_not_come_nor_what_is_there_go(folder: Path) -> None:
    seen = Look(["data", "later", "data/small"], {"own.yaml": []})
    (folder / "later").write_text("now")
    (folder / "own.yaml").write_text("a: 1\n")
    (folder / "data/small").unlink()
    assert seen.changed() == ['own.yaml: (cannot be read) → {"a": 1}', "data/small", "later"]


def test_a_look_that_was_kept_tells_the_same(folder: Path) -> None:
    look().write(folder / "kept.json")
    assert Look.read(folder / "kept.json", folder).changed() == []
    (folder / "data/new").touch()
    assert Look.read(folder / "kept.json", folder).changed() == ["data/new"]


def test_an_error_names_five_changes_and_counts_the_others() -> None:
    refuse([])
    with pytest.raises(StaleError, match="^a, b, c, d, e: changed while"):
        refuse(list("abcde"))
    with pytest.raises(StaleError, match="^a, b, c, d, e and 2 more: changed while"):
        refuse(list("abcdefg"))


def test_a_value_of_more_than_40_letters_is_shortened(folder: Path) -> None:
    seen = look()
    (folder / "params.yaml").write_text(f"a: {'x' * 38}\nb: {{c: {'y' * 39}, d: .inf}}\n")  # in quotes: 40 and 41
    assert seen.changed() == [
        f'params.yaml: a (1 → "{"x" * 38}")',
        f'params.yaml: b.c ([1, 2] → "{"y" * 36}...)',
    ]


def test_values_that_json_has_not_are_texts(folder: Path) -> None:
    (folder / "params.yaml").write_text("a: .nan\nb: 2026-11-30\n1: [true, null, -.inf]\n")
    assert values_of(folder / "params.yaml", []) == {"a": "nan", "b": "2026-11-30", "1": [True, None, "-inf"]}
    assert values_of(folder / "params.yaml", ["a", "a.b", "c"]) == {"a": "nan", "a.b": "(missing)", "c": "(missing)"}


def test_a_stage_keeps_its_look_by_its_address() -> None:
    assert receipt("pipelines/lora/dvc.yaml:build") == Path(".scratch/seen/pipelines/lora/dvc.yaml/build.json")
