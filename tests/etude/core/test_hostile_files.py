"""Files that are made to harm, or are something else: one error, soon, whatever they hold."""

from __future__ import annotations

import json
import os
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.core import pickles
from etude.core.errors import EtudeError, FormatError
from etude.core.model_folders import read_config
from etude.core.pickles import pickle_keys, read_either, read_pickle
from etude.core.tensors import read_header, read_metadata

ENTRY: dict[str, Any] = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def header(folder: Path, text: str | bytes) -> Path:
    path, packed = folder / "m.safetensors", text if isinstance(text, bytes) else text.encode()
    path.write_bytes(struct.pack("<Q", len(packed)) + packed + bytes(4))
    return path


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        333,
        "text",
        {"w": None},
        {"w": []},
        {"w": {}},
        {"w": ENTRY | {"dtype": 3}},
        {"w": ENTRY | {"shape": "1"}},
        {"w": ENTRY | {"shape": [1.5]}},
        {"w": ENTRY | {"shape": [-1]}},
        {"w": ENTRY | {"shape": [True]}},
        {"w": ENTRY | {"shape": [10**30]}},
        {"w": ENTRY | {"data_offsets": {"0": 4}}},
        {"w": ENTRY | {"dtype": "F6_E2M3"}},
        {"w": ENTRY | {"dtype": "no such"}},
        {"w": ENTRY | {"shape": [1 << 40]}},
        {"w": ENTRY | {"shape": [1 << 62, 1 << 62]}},
        {"w": ENTRY | {"data_offsets": [4, 0]}},
        {"w": ENTRY | {"data_offsets": [0, 1 << 60]}},
        {"w": ENTRY, "__metadata__": 3},
        {"w": ENTRY, "__metadata__": {"a": None}},
    ],
)
def test_a_header_of_another_form_is_refused(data: object, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"m\.safetensors: (has a damaged|is damaged)"):
        read_either(header(tmp_path, json.dumps(data)))


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 100_000, "1" * 10_000, "{}x", b"\xff\xfe{}"])
def test_a_header_that_is_no_json_is_refused(text: str | bytes, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="damaged safetensors header"):
        read_header(header(tmp_path, text))


def test_a_file_without_tensors_is_one_of_safetensors_under_any_name(tmp_path: Path) -> None:
    path = header(tmp_path, "{}")
    assert read_header(path) == {}
    path.rename(tmp_path / "m.ckpt")
    with pytest.raises(FormatError, match="is a safetensors file under another name"):
        read_either(tmp_path / "m.ckpt")


def test_a_header_without_metadata_may_say_so_by_null(tmp_path: Path) -> None:
    path = header(tmp_path, json.dumps({"w": ENTRY, "__metadata__": None}))
    assert read_metadata(path) == {}
    assert read_either(path)[0]["w"].item() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.safetensors")
    with pytest.raises(FormatError, match="is a pipe or a device"):
        read_either(tmp_path / "m.safetensors")


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".pt", ".bin"])
@pytest.mark.parametrize("content", [b"", b"\0", b"plain text, no weights\n" * 50, b"<html>", b"PK\x03\x04", None])
def test_what_is_no_file_of_weights_is_refused(content: bytes | None, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"m{suffix}"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(FormatError, match=f"m{suffix}: "):
        read_either(path)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
INSTEAD = {  # content → what is said of it
    b"": "is empty",
    POINTER: "is a Git LFS pointer.* Next: run `git lfs pull`",
    b"<!DOCTYPE html><html>": r"is a web page \(HTML\), not the file itself\. Next: fetch it again",
    b"GGUF\3\0\0\0": "is a GGUF file.* Next: give a file in float16 or float32",
    bytes(5000): "begins with zeros.* Next: fetch it again",
    b"\x1f\x8b\x08\0": "is a gzip archive. Next: unpack it",
    b"\x89PNG\r\n\x1a\n": r"is a picture \(PNG\)",
    b"Access denied\n": "is text",
}


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".pt", ".json"])
@pytest.mark.parametrize("content", INSTEAD)
def test_what_is_something_else_is_said_to_be_that(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"m{suffix}"
    path.write_bytes(content)
    said = "is not JSON" if suffix == ".json" and content.startswith(b"Access") else INSTEAD[content]
    with pytest.raises(EtudeError, match=rf"m{suffix}: {said}.*\."):
        read_config(path) if suffix == ".json" else read_either(path)


def test_a_file_under_another_name_is_to_be_renamed(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_bytes(header(tmp_path, json.dumps({"w": ENTRY})).read_bytes())
    torch.save({"w": torch.ones(1)}, tmp_path / "b.safetensors")
    torch.save({"w": torch.ones(1)}, tmp_path / "c.safetensors", _use_new_zipfile_serialization=False)
    with pytest.raises(FormatError, match=r"is a safetensors file under another name\. Next: rename it to a\.safe"):
        read_either(tmp_path / "a.ckpt")
    for name in "bc":
        with pytest.raises(FormatError, match=rf"is a pickle of PyTorch under .*\. Next: rename it to {name}"):
            read_header(tmp_path / f"{name}.safetensors")


def test_a_file_that_ends_too_soon_is_refused_by_its_header_alone(tmp_path: Path) -> None:
    path = header(tmp_path, json.dumps({"w": ENTRY | {"shape": [9], "data_offsets": [0, 36]}}))
    with pytest.raises(FormatError, match="its tensors need 36 bytes, but it holds 4"):
        read_header(path)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(FormatError, match="the file ends within it"):
        read_header(path)


def test_a_tensor_without_numbers_is_named(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2, device="meta")}, tmp_path / "m.pt")
    with pytest.raises(FormatError, match="`w` has a shape but no numbers.* Next: load the weights"):
        read_either(tmp_path / "m.pt")


def test_a_state_dict_that_holds_itself_is_refused(tmp_path: Path) -> None:
    inner: dict[str, Any] = {}
    inner["state_dict"] = inner
    torch.save(inner, tmp_path / "m.ckpt")
    for read in (read_pickle, pickle_keys):
        with pytest.raises(FormatError, match="a state_dict in itself"):
            read(tmp_path / "m.ckpt")


@pytest.mark.parametrize("mapped", [0, pickles.MAPPED])
def test_containers_that_hold_themselves_or_too_many_are_refused(
    mapped: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickles, "MAPPED", mapped)
    ring: list[Any] = []
    ring.append(ring)
    deep: dict[str, Any] = {}
    for _ in range(150):
        deep = {"a": deep}
    for data in ({"w": ring}, deep):
        torch.save(data, tmp_path / "m.pt")
        with pytest.raises(FormatError, match="holds itself, or more than .* containers inside"):
            read_pickle(tmp_path / "m.pt")


@pytest.mark.parametrize(("levels", "is_read"), [(32, True), (33, False)])
def test_thirty_two_containers_may_be_inside_each_other(levels: int, is_read: bool, tmp_path: Path) -> None:
    tower: Any = torch.ones(1)
    for _ in range(levels):
        tower = [tower]
    torch.save({"w": tower}, tmp_path / "m.pt")
    if is_read:
        assert read_pickle(tmp_path / "m.pt")["w"][0]
    else:
        with pytest.raises(FormatError, match="more than 32 containers inside each other"):
            read_pickle(tmp_path / "m.pt")


@pytest.mark.parametrize(("levels", "is_read"), [(0, True), (1, True), (31, True), (32, False)])
def test_a_state_dict_is_found_in_thirty_one_others(levels: int, is_read: bool, tmp_path: Path) -> None:
    data: dict[str, Any] = {"w": torch.ones(3)}
    for _ in range(levels):
        data = {"state_dict": data, "epoch": 3}
    torch.save(data, tmp_path / "m.ckpt")
    if is_read:
        assert pickle_keys(tmp_path / "m.ckpt") == list(read_pickle(tmp_path / "m.ckpt")) == ["w"]
    else:
        with pytest.raises(FormatError, match="more than 32 inside each other"):
            read_pickle(tmp_path / "m.ckpt")


def test_a_container_that_is_named_very_often_is_read_once(tmp_path: Path) -> None:
    tower: Any = torch.ones(1)
    for _ in range(30):
        tower = [tower, tower]  # 2³⁰ ways to the one tensor
    torch.save({"w": tower}, tmp_path / "m.pt")
    assert isinstance(read_pickle(tmp_path / "m.pt")["w"], list)


def test_a_packed_archive_is_not_unpacked(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1 << 20)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "m.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(FormatError, match="packed archive"):
        read_pickle(tmp_path / "m.pt")


@pytest.mark.parametrize("mapped", [0, pickles.MAPPED])
def test_a_tensor_that_is_larger_than_its_entry_in_the_archive_is_refused(
    mapped: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mapped into memory, it would go on into what follows in the file."""
    monkeypatch.setattr(pickles, "MAPPED", mapped)
    row = torch.ones(8)
    whole: dict[str, Any] = {
        "a": row,
        "b": torch.ones(8),
        "same": torch.ones(4),
        "view": row[:4],
        "none": torch.ones(0),
    }
    whole["step"] = 100
    torch.save(whole, tmp_path / "whole.pt")
    assert {name: int(tensor.sum()) for name, tensor in read_either(tmp_path / "whole.pt")[0].items()} == {
        "a": 8, "b": 8, "same": 4, "view": 4, "none": 0
    }  # fmt: skip
    with zipfile.ZipFile(tmp_path / "whole.pt") as source, zipfile.ZipFile(tmp_path / "short.pt", "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, content[:12] if name.endswith("data/0") else content)
    with pytest.raises(FormatError, match="damaged"):
        read_either(tmp_path / "short.pt")


@pytest.mark.parametrize("number", [10**400, float("nan"), float("-inf")], ids=["large", "nan", "-inf"])
def test_a_plain_number_that_is_not_finite_is_named(number: float, tmp_path: Path) -> None:
    torch.save({"layer.alpha": number}, tmp_path / "m.pt")
    with pytest.raises(FormatError, match=r"`layer\.alpha` holds .* no finite number"):
        read_either(tmp_path / "m.pt")
