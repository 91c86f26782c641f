"""Shards: what is written comes back entry by entry, changes stay local, and damage is named."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from etude.core import shards
from etude.core.errors import EtudeError, FormatError, InputError
from etude.core.files import read_json, sha256_file, sha256_tree
from etude.core.shards import INDEX, Shards, write_shards
from etude.core.tensors import read_tensors, write_tensors

MANY = [f"{number:05d}" for number in range(2000)]


def write(folder: Path, names: Iterable[str] = MANY[:300]) -> Path:
    """Entries of two numbers that are those of their name."""
    folder.mkdir(parents=True, exist_ok=True)
    write_shards(folder, names, lambda name: {"mean": torch.tensor([float(name[:5])] * 2)})
    return folder


def files(folder: Path) -> dict[str, str]:
    return {file.name: sha256_file(file) for file in folder.glob("*.safetensors")}


def test_entries_come_back_by_name_and_position_whatever_their_sizes_and_types(tmp_path: Path) -> None:
    entries: dict[str, dict[str, Tensor]] = {
        "a": {"mean": torch.randn(4, 3, 2), "mask": torch.tensor([[1, 0]], dtype=torch.uint8)},
        "a-flip": {"mean": torch.randn(4, 2, 3)},
        "b.c": {"mean": torch.randn(1).double(), "hidden": torch.randn(2, 2).bfloat16()},
        "d": {"mean": torch.randn(3).half()},
    }
    write_shards(tmp_path, entries, entries.__getitem__)
    found = Shards(("", tmp_path))
    assert found.names == ("a-flip", "a", "b.c", "d")  # the order of a-flip.png and a.png
    for position, name in enumerate(found.names):
        assert found.find(name) == position
        for key in ("mean", "mask", "hidden"):
            tensor, expected = found.optional(key)[position], entries[name].get(key)
            assert (tensor is None) == (expected is None)
            if expected is not None:
                assert (tensor.dtype, tensor.shape) == (expected.dtype, expected.shape)
                assert torch.equal(tensor, expected)
    assert found.find("e") is None
    assert torch.equal(found.column("mean")[-1], entries["d"]["mean"])
    with pytest.raises(FormatError, match="has no `mask` of a-flip"):
        found.column("mask")


def test_several_folders_follow_each_other_under_their_prefixes(tmp_path: Path) -> None:
    found = Shards(("cats/", write(tmp_path / "one", MANY[:3])), ("dogs/", write(tmp_path / "two", MANY[7:9])))
    assert found.names == ("cats/00000", "cats/00001", "cats/00002", "dogs/00007", "dogs/00008")
    assert [float(tensor[0]) for tensor in found.column("mean")] == [0, 1, 2, 7, 8]
    assert found.digest(3) == Shards(("", tmp_path / "two")).digest(0)
    assert found.digest(3) != found.digest(4)


def test_equal_entries_give_equal_files_in_any_order(tmp_path: Path) -> None:
    shuffled = random.Random(0).sample(MANY, len(MANY))
    assert sha256_tree(write(tmp_path / "a", MANY)) == sha256_tree(write(tmp_path / "b", shuffled))


def test_a_file_holds_many_entries_and_none_too_many(tmp_path: Path) -> None:
    write(tmp_path, MANY)
    lengths = [len(read_tensors(tmp_path / name)[0]) for name in read_json(tmp_path / INDEX)]
    assert sum(lengths) == len(MANY)
    assert max(lengths) <= shards.LONGEST
    assert len(lengths) < len(MANY) / shards.MEAN * 2


@pytest.mark.parametrize("more", ["00700-flip", "00000-first", "99999"])
def test_one_entry_more_changes_one_file(tmp_path: Path, more: str) -> None:
    before, after = files(write(tmp_path / "a", MANY)), files(write(tmp_path / "b", [*MANY, more]))
    new = set(after.items()) - set(before.items())
    assert 1 <= len(new) <= 2  # two, if its file ends at the new name


def test_one_other_entry_changes_one_file_and_its_own_digest(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a"), tmp_path / "b"
    second.mkdir()
    write_shards(second, MANY[:300], lambda name: {"mean": torch.tensor([float(name) + (name == MANY[9])] * 2)})
    one, other = (Shards(("", folder)) for folder in (first, second))
    assert len(set(files(second).items()) - set(files(first).items())) == 1
    assert [i for i in range(300) if one.digest(i) != other.digest(i)] == [9]


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("cut", "is damaged: its tensors need"),
        ("empty", "safetensors"),
        ("bit", "is damaged: its content"),
        ("gone", "missing"),
    ],
)
def test_a_damaged_shard_is_refused_by_name(tmp_path: Path, damage: str, named: str) -> None:
    file = sorted(write(tmp_path, MANY[:1000]).glob("*.safetensors"))[1]
    data = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    elif damage == "bit":
        data[-1] ^= 1
        file.write_bytes(data)
    else:
        file.write_bytes({"cut": data[:-3], "empty": b""}[damage])
    with pytest.raises(EtudeError, match=named) as error:
        Shards(("", tmp_path))
    assert file.name in str(error.value)


def test_files_that_no_index_names_are_not_taken_for_shards(tmp_path: Path) -> None:
    write_tensors(tmp_path / "old/a.safetensors", {"mean": torch.zeros(2)})
    with pytest.raises(InputError, match="or a stage did not finish. Next: delete this folder and run `dvc repro`"):
        Shards(("", tmp_path / "old"))
    write_tensors(write(tmp_path / "new") / "a.safetensors", {"mean": torch.zeros(2)})
    with pytest.raises(InputError, match=r"a\.safetensors: is not in shards\.json"):
        Shards(("", tmp_path / "new"))
    with pytest.raises(InputError, match="is missing or empty"):
        Shards(("", tmp_path / "none"))


@pytest.mark.parametrize("text", ["[]", '{"../a.safetensors": ""}', '{"a/b.safetensors": ""}'])
def test_an_index_that_is_no_list_of_files_beside_it_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(InputError, match="is no list of shards"):
        Shards(("", tmp_path))
