from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch

from etude.core.errors import FormatError, InputError
from etude.core.files import (
    atomic_path,
    read_json,
    read_metadata,
    read_tensors,
    replace_folder,
    sha256_tree,
    write_json,
    write_tensors,
)


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(KeyError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_while_filling_a_folder_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with replace_folder(target) as temporary:
        (temporary / "one").write_text("1")
    with pytest.raises(KeyError), replace_folder(target) as temporary:
        (temporary / "two").write_text("2")
        raise KeyError
    with replace_folder(tmp_path / "other") as temporary:
        (temporary / "three").write_text("3")
    assert [p.name for p in target.iterdir()] == ["one"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "out"]


def test_equal_tensors_give_equal_bytes_whatever_the_order(tmp_path: Path) -> None:
    a, b = torch.arange(6.0).reshape(2, 3), torch.ones(4, dtype=torch.float16)
    facts = {f"key{i}": str(i) for i in range(20)}
    write_tensors(tmp_path / "1.safetensors", {"a": a, "b": b}, facts)
    write_tensors(tmp_path / "2.safetensors", {"b": b, "a": a}, dict(reversed(facts.items())))
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()
    tensors, metadata = read_tensors(tmp_path / "1.safetensors")
    assert metadata == facts == read_metadata(tmp_path / "1.safetensors")
    assert torch.equal(tensors["a"], a)
    assert torch.equal(tensors["b"], b)


@pytest.mark.parametrize("damage", ["cut", "header", "text"])
def test_a_damaged_tensor_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.ones(1000)})
    data = path.read_bytes()
    path.write_bytes({"cut": data[:-10], "header": struct.pack("<Q", 9) + b"{nothing}", "text": b"hi"}[damage])
    with pytest.raises(FormatError, match="x.safetensors"):
        read_tensors(path)


def test_json_has_one_byte_form_and_refuses_what_json_lacks(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None]})
    write_json(tmp_path / "b.json", {"a": [1.5, None], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text()) == read_json(tmp_path / "a.json")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert read_json(tmp_path / "a.json")["b"] == 1


def test_a_missing_input_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dvc repro"):
        read_json(tmp_path / "none.json")
    with pytest.raises(InputError, match="dvc repro"):
        sha256_tree(tmp_path / "none")


def test_a_tree_is_hashed_by_names_and_bytes_but_not_by_hidden_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    before = sha256_tree(tmp_path)
    (tmp_path / ".hidden").write_text("x")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("x")
    assert sha256_tree(tmp_path) == before
    (tmp_path / "a").rename(tmp_path / "b")
    assert sha256_tree(tmp_path) != before
