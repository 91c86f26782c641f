from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from etude.core import store
from etude.core.shards import text_entry
from etude.core.store import REMEMBERED, Store, is_settled, key, load, remembered, save


def test_keys_tell_apart_what_joins_to_the_same_text() -> None:
    keys = [
        key("a", "b"),
        key("ab"),
        key("a", b"b"),
        key(1),
        key("1"),
        key(1.5),
        key(None),
        key({"a": 1}),
        key(["a", 1]),
    ]
    assert len(set(keys)) == len(keys)


def test_a_key_is_the_digest_of_its_parts_as_json() -> None:
    """Fixed: with another one, all that is stored would be computed again."""
    assert key("a cat", 1, {"b": None}) == hashlib.sha256(b'["a cat", 1, {"b": null}]').hexdigest()
    assert text_entry("Zörk") == hashlib.sha256('["Zörk"]'.encode()).hexdigest()[:16]


def test_a_mapping_counts_whatever_its_order() -> None:
    assert key({"a": 1, "b": 2}) == key({"b": 2, "a": 1})


def test_what_has_no_canonical_form_is_refused() -> None:
    with pytest.raises(TypeError):
        key(object())  # type: ignore[arg-type]


def test_entries_are_named_by_kind_and_key() -> None:
    assert str(Store("latents", "root").path("abcd", ".png")) == "root/latents/ab/abcd.png"


@pytest.fixture
def hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were hashed, in a folder where every time is settled at once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "SETTLED", -1.0)
    return []


def counting(hashed: list[str], meanwhile: Callable[[Path], Any] = lambda _: None) -> Callable[[Path], str]:
    def digest(file: Path) -> str:
        hashed.append(file.name)
        meanwhile(file)
        return f"digest of {file.name}"

    return digest


def test_a_large_file_is_hashed_once_and_a_small_one_each_time(hashed: list[str]) -> None:
    for name, size in (("small", REMEMBERED - 1), ("large", REMEMBERED)):
        Path(name).write_bytes(bytes(size))
        assert {remembered(Path(name), counting(hashed)) for _ in range(3)} == {f"digest of {name}"}
    assert hashed == ["small"] * 3 + ["large"]


def test_another_file_another_time_and_another_kind_of_digest_are_hashed_again(hashed: list[str]) -> None:
    large, digest = Path("large"), counting(hashed)
    large.write_bytes(bytes(REMEMBERED))
    changes: list[Callable[[], Any]] = [
        lambda: os.utime(large, (1, 1)),
        lambda: os.utime(large, (1, 2)),
        lambda: large.write_bytes(bytes(REMEMBERED + 1)),
        lambda: (os.utime(large, (1, 1)), Path("other").write_bytes(bytes(REMEMBERED)), Path("other").replace(large)),
    ]
    for count, change in enumerate(changes, start=1):
        change()
        remembered(large, digest)
        remembered(large, digest)
        assert len(hashed) == count
    remembered(large, digest, "unet")
    remembered(large, digest, "unet")
    assert len(hashed) == len(changes) + 1


@pytest.mark.parametrize("settled", [-1.0, 1e6])
def test_a_file_that_may_have_changed_while_it_was_hashed_is_hashed_again(
    settled: float, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SETTLED", settled)
    Path("large").write_bytes(bytes(REMEMBERED))
    writing = counting(hashed, lambda file: os.utime(file, (1, 1)) if settled < 0 else None)
    remembered(Path("large"), writing)
    remembered(Path("large"), counting(hashed))
    assert hashed == ["large"] * 2


@pytest.mark.parametrize("moved", ["st_mtime_ns", "st_ctime_ns"])
def test_a_time_is_settled_once_both_are_older_than_any_clock_is_coarse(moved: str) -> None:
    now, old = 10**18, {"st_mtime_ns": 0, "st_ctime_ns": 0}
    stats: list[Any] = [SimpleNamespace(**old | {moved: now - age}) for age in (0, 3 * 10**9, 3 * 10**9 + 200)]
    assert [is_settled(stat, now) for stat in stats] == [False, False, True]


def test_an_entry_is_loaded_as_it_was_saved_and_a_damaged_one_counts_as_missing(tmp_path: Path) -> None:
    place = tmp_path / "ab" / "abcd.entry"
    assert load(place) is None
    save(place, {"text": "ü\n", "numbers": [1, 2.5], "none": None})
    assert load(place) == {"text": "ü\n", "numbers": [1, 2.5], "none": None}
    whole = place.read_bytes()
    for damaged in (b"", whole[:-1], whole.replace(b"2.5", b"2.6"), bytes(len(whole)), b"\xff" + whole[1:]):
        place.write_bytes(damaged)
        assert load(place) is None
