"""Values in params files changed in place."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from commands.rewriting import rewrite
from etude.core.params import read_yaml

LISTS: list[list[object]] = [[], [0, 1], [3], [4, 5, 6], ["[name]", "a: b"]]
TEXTS = {
    "in brackets": "a: 1 # one\nkept: [0, 1] # behind\nb: 2 # two\n",
    "in lines": "a: 1 # one\nkept: # behind\n  - 0 # zero\n  - 1\nb: 2 # two\n",
    "empty": "a: 1 # one\nkept: [] # behind\nb: 2 # two\n",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_list_can_be_emptied_and_filled_again_and_again(tmp_path: Path, text: str) -> None:
    file = tmp_path / "params.yaml"
    for values in product(LISTS, repeat=3):
        file.write_text(text)
        for value in values:
            rewrite(file, "params.yaml", {"kept": value})
            assert read_yaml(file) == {"a": 1, "kept": value, "b": 2}
        assert all(comment in file.read_text() for comment in ("# one", "# behind", "# two"))
