from __future__ import annotations

import pytest

from etude.core.store import Store, key


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


def test_a_mapping_counts_whatever_its_order() -> None:
    assert key({"a": 1, "b": 2}) == key({"b": 2, "a": 1})


def test_what_has_no_canonical_form_is_refused() -> None:
    with pytest.raises(TypeError):
        key(object())  # type: ignore[arg-type]


def test_entries_are_named_by_kind_and_key() -> None:
    assert str(Store("latents", "root").path("abcd", ".png")) == "root/latents/ab/abcd.png"
