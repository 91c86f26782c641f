from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import struct
import sys
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import torch

from etude.core import tensors as tensor_files
from etude.core.errors import ConflictError, FormatError, InputError, ParamsError
from etude.core.files import (
    Draft,
    add_to_folder,
    atomic_path,
    beside,
    copy_file,
    file_name,
    file_name_fault,
    read_json,
    refuse_existing,
    replace_folder,
    sha256_file,
    sha256_tree,
    split_suffix,
    tree_names,
    write_json,
)
from etude.core.params import Learned, validate
from etude.core.tensors import read_metadata, read_tensors, write_tensors


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(KeyError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="only Linux tells which files are open")
def test_no_file_is_left_open(tmp_path: Path) -> None:
    for number in range(3):
        write_json(tmp_path / f"{number}.json", number)
        with replace_folder(tmp_path / "out") as folder:
            (folder / "a").touch()
        with add_to_folder(tmp_path / "out") as draft:
            draft.path(str(number)).touch()
    opened = (os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd"))
    assert not [path for path in opened if path.startswith(f"{tmp_path}/")]


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


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What is done to files and folders, by their inodes: brought to the disk, given a name, removed."""
    done: list[tuple[str, int]] = []
    sync, move, remove = os.fsync, os.replace, shutil.rmtree

    def fsync(file: int) -> None:
        done.append(("sync", os.fstat(file).st_ino))
        sync(file)

    def replace(source: Path, target: Path) -> None:
        done.append(("move", os.lstat(source).st_ino))
        move(source, target)

    def rmtree(path: Path, **options: Any) -> None:
        if os.path.lexists(path):
            done.append(("remove", os.lstat(path).st_ino))
        remove(path, **options)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    return done


def inode(path: Path) -> int:
    return path.lstat().st_ino


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_before_anyone_goes_on(
    tmp_path: Path, events: list[tuple[str, int]]
) -> None:
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    made = inode(tmp_path / "a.txt")
    assert events == [("sync", made), ("move", made), ("sync", inode(tmp_path))]


def test_an_old_folder_is_removed_only_when_the_new_one_has_its_place(
    tmp_path: Path, events: list[tuple[str, int]]
) -> None:
    target = tmp_path / "out"
    with replace_folder(target) as temporary:
        (temporary / "one").touch()
    first = inode(target)
    events.clear()
    with replace_folder(target) as temporary:
        (temporary / "two").touch()
    second = inode(target)
    assert events[:2] == [("move", first), ("move", second)]
    assert [kind for kind, _ in events[2:]] == ["remove", "sync"]
    assert events[-1] == ("sync", inode(tmp_path))
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "two"]


def test_what_is_added_to_a_folder_is_there_for_good(tmp_path: Path, events: list[tuple[str, int]]) -> None:
    (tmp_path / "a").touch()
    old = inode(tmp_path / "a")
    with add_to_folder(tmp_path, replace=True) as draft:
        draft.path("a").touch()
        draft.path("b").touch()
    moves = [("move", old), ("move", inode(tmp_path / "a")), ("move", inode(tmp_path / "b"))]
    assert events[:4] == [*moves, ("sync", inode(tmp_path))]


def old_files(folder: Path) -> dict[str, str]:
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_text("old")
    return contents(folder)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def interrupt_move(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Ctrl-C can come between any two moves."""
    move, numbers = os.replace, count()

    def interrupted(source: Path, target: Path) -> None:
        if next(numbers) == number:
            raise KeyboardInterrupt
        move(source, target)

    monkeypatch.setattr(os, "replace", interrupted)


@pytest.mark.parametrize("number", range(4))
def test_whichever_move_into_a_folder_fails_all_that_was_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before = old_files(tmp_path / "out")
    interrupt_move(monkeypatch, number)
    with pytest.raises(KeyboardInterrupt), add_to_folder(tmp_path / "out", replace=True) as draft:
        for name in ("a", "b"):
            draft.path(name).write_text("new")
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("number", range(2))
def test_whichever_move_of_a_folder_fails_the_old_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before = old_files(tmp_path / "out")
    interrupt_move(monkeypatch, number)
    with pytest.raises(KeyboardInterrupt), replace_folder(tmp_path / "out") as temporary:
        (temporary / "a").write_text("new")
    assert contents(tmp_path / "out") == before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such rights")
def test_others_may_read_what_is_written(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.touch()
    with replace_folder(tmp_path / "out") as folder:
        write_json(folder / "a.json", 1)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"a.txt": 0o644, "out": 0o755, "a.json": 0o644}


@pytest.mark.parametrize("damage", [b'{"a": 1', b"\xff\xfe{}", b""])
def test_damaged_json_is_named(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "x.json").write_bytes(damage)
    with pytest.raises(InputError, match=r"x\.json: is not JSON .* Next: delete it"):
        read_json(tmp_path / "x.json")


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


def test_a_tensor_file_is_the_same_read_at_once_or_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16)}, {"key": "1"})
    at_once, metadata = read_tensors(path)
    monkeypatch.setattr(tensor_files, "MAPPED", 0)
    mapped, same = read_tensors(path)
    assert metadata == same
    assert at_once.keys() == mapped.keys()
    assert all(torch.equal(at_once[name], mapped[name]) for name in mapped)
    assert all(at_once[name].dtype == mapped[name].dtype for name in mapped)


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


def test_json_has_its_own_letters_two_spaces_or_one_line_and_the_line_ends_of_unix(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1], "a": "Zörk"})
    assert (tmp_path / "a.json").read_bytes() == '{\n  "a": "Zörk",\n  "b": [\n    1\n  ]\n}\n'.encode()
    write_json(tmp_path / "a.json", {"b": [1], "a": "Zörk"}, indent=None)
    assert (tmp_path / "a.json").read_bytes() == '{"a": "Zörk", "b": [1]}\n'.encode()


def test_what_may_be_lost_by_a_power_failure_is_not_brought_to_the_disk(
    tmp_path: Path, events: list[tuple[str, int]]
) -> None:
    with atomic_path(tmp_path / "deep" / "er" / "a.txt", durable=False) as temporary:
        temporary.write_text("whole")
        assert (temporary.parent, temporary.suffix) == (tmp_path / "deep" / "er", ".txt")
    assert (tmp_path / "deep" / "er" / "a.txt").read_text() == "whole"
    assert [kind for kind, _ in events] == ["move"]


def test_a_folder_may_be_made_below_others_that_are_not_there_yet(tmp_path: Path) -> None:
    with replace_folder(tmp_path / "deep" / "er" / "out") as folder:
        (folder / "a").write_text("1")
    assert contents(tmp_path / "deep" / "er" / "out") == {"a": "1"}


@pytest.mark.parametrize("existed", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_a_folder_to_which_nothing_is_added_is_there_only_if_it_was_there_before(
    tmp_path: Path, existed: bool, fails: bool
) -> None:
    folder = tmp_path / "a" / "b"
    if existed:
        folder.mkdir(parents=True)
    try:
        with add_to_folder(folder) as draft:
            if fails:
                draft.path("x").touch()
                raise KeyError
    except KeyError:
        assert fails
    assert folder.exists() == existed
    assert list(tmp_path.rglob("*"))[1:] == [folder] * existed


def test_what_exists_is_replaced_only_if_that_was_asked_for(tmp_path: Path) -> None:
    old_files(tmp_path / "out")
    with pytest.raises(ConflictError, match="exists already"), add_to_folder(tmp_path / "out") as draft:
        draft.path("b").write_text("new")
        draft.path("c").write_text("new")
    assert contents(tmp_path / "out") == {"a": "old", "b": "old"}
    refuse_existing(tmp_path / "none")
    refuse_existing(tmp_path / "out", replace=True)
    (tmp_path / "broken").symlink_to("nothing")
    for name in ("out", "broken"):
        with pytest.raises(ConflictError, match="add --replace"):
            refuse_existing(tmp_path / name)


@pytest.mark.parametrize("name", ["a" * 200, "\u0431" * 100, "a b", "a.b", ".a", "console", "com10"])
def test_a_draft_gives_a_path_for_a_name_that_every_system_has(tmp_path: Path, name: str) -> None:
    assert Draft(tmp_path).path("sub", name) == tmp_path / "sub" / name


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("a" * 201, "more than 200 bytes"),
        ("\u0431" * 100 + "a", "more than 200 bytes"),
        ("", "not a valid"),
        ("..", "not a valid"),
        ("a.", "not a valid"),
        ("a ", "not a valid"),
        ("a:b", "has ':' in it"),
        ("NUL", "device"),
        ("con.txt", "device"),
        ("com9", "device"),
    ],
)
def test_a_draft_refuses_a_name_that_some_system_lacks(tmp_path: Path, name: str, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        Draft(tmp_path).path(name)


def test_a_file_refers_to_others_beside_it_alone() -> None:
    for name in ("a", "a" * 200):
        assert beside(Path("x/index.json"), name) == Path("x") / name
    for other in ("a" * 201, "../a", "b/a", "/a", "..", "", 3, None):
        with pytest.raises(FormatError, match="is not a file in the same folder"):
            beside(Path("x/index.json"), other)


def test_a_missing_input_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dvc repro"):
        read_json(tmp_path / "none.json")
    with pytest.raises(InputError, match="dvc repro"):
        sha256_tree(tmp_path / "none")


def test_a_name_has_the_suffix_that_pathlib_sees() -> None:
    for name in (
        "fox.png",
        "a/fox.b.png",
        "a.b/fox",
        "a.b/.fox",
        ".fox",
        "fox.",
        "fox..png",
        "a/b.c/d.",
        "..fox",
        "fox",
    ):
        path = PurePosixPath(name)
        assert split_suffix(name) == (str(path.with_suffix("")), path.suffix), name


def test_links_that_lead_to_no_file_are_no_files_of_a_tree(tmp_path: Path) -> None:
    tmp_path.joinpath("a").write_text("a")
    before = sha256_tree(tmp_path)
    tmp_path.joinpath("circle").symlink_to("circle")
    tmp_path.joinpath("through").symlink_to("a/b")
    tmp_path.joinpath("gone").symlink_to("nothing")
    assert sha256_tree(tmp_path) == before


def test_a_tree_is_hashed_by_names_and_bytes_but_not_by_hidden_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    before = sha256_tree(tmp_path)
    (tmp_path / ".hidden").write_text("x")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("x")
    assert sha256_tree(tmp_path) == before
    (tmp_path / "a").rename(tmp_path / "b")
    assert sha256_tree(tmp_path) != before


def test_a_digest_is_that_of_all_bytes_and_a_file_has_the_same_as_a_tree(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000  # more than is read at a time
    (tmp_path / "a.bin").write_bytes(data)
    assert sha256_file(tmp_path / "a.bin") == hashlib.sha256(data).hexdigest()
    assert (
        sha256_tree(tmp_path / "a.bin") == sha256_tree(tmp_path / "a.bin", (".py",)) == sha256_file(tmp_path / "a.bin")
    )


def test_a_tree_has_its_files_in_the_order_of_folders_and_counts_those_of_a_suffix(tmp_path: Path) -> None:
    for name in ("a.py", "a-b", "a/c.py", "a/.h/d", "a/__pycache__/e", "b"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "linked").symlink_to("b")
    assert tree_names(tmp_path) == ["a/c.py", "a-b", "a.py", "b", "linked"]
    assert tree_names(tmp_path / "b") == [""]
    before = sha256_tree(tmp_path, (".py",))
    (tmp_path / "b").write_text("other")
    assert sha256_tree(tmp_path, (".py",)) == before
    listed = "".join(f"{name}\0{hashlib.sha256(name.encode()).hexdigest()}\n" for name in ("a/c.py", "a.py"))
    assert before == hashlib.sha256(listed.encode()).hexdigest()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a" * 101, "a" * 100),
        ("a" * 99 + ".b", "a" * 99),
        ("x" + "\u00e9" * 50, "x" + "\u00e9" * 49),
        ("con", "_con"),
        ("LPT\u00b9.txt", "_LPT\u00b9.txt"),
        ("console", "console"),
        ("--rf", "rf"),
        ("***", "etude"),
    ],
)
def test_a_text_that_is_no_name_becomes_one(text: str, name: str) -> None:
    assert file_name(text) == name


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("owl", "owl"),
        ("<owl>", "owl"),
        ("my owl", "myowl"),
        ("cafe\u0301", "caf\u00e9"),
        ("\U0001f989", "\U0001f989"),
        ("\U0001f469\u200d\U0001f680", "\U0001f469\u200d\U0001f680"),  # a woman, a joiner, a rocket
        ("\U0001f44d\U0001f3fd", "\U0001f44d\U0001f3fd"),  # with a tone of skin
        ("\u2764\ufe0f", "\u2764\ufe0f"),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", "\u0939\u093f\u0928\u094d\u0926\u0940"),  # vowel signs are marks
        ("^`owl\u200d", "owl"),
        ("a/../b:c\u202e", "a..bc"),
    ],
)
def test_a_file_is_called_by_its_word(word: str, name: str) -> None:
    assert file_name(word) == name
    assert file_name_fault(word) == ""


@pytest.mark.parametrize(
    ("word", "fault"), [("***", "no letter"), ("\u200d.", "no letter"), ("\u0431" * 51, "100 bytes")]
)
def test_a_word_that_no_file_can_be_called_by_is_told(word: str, fault: str) -> None:
    assert fault in file_name_fault(word)
    with pytest.raises(ParamsError, match=f"name: .*{fault}"):
        validate({"set": "owl", "name": word, "trigger": True}, Learned, "params.yaml")


@pytest.mark.parametrize("times", [1, 256, 999])
@pytest.mark.parametrize("answer", [None, OSError(errno.EXDEV, "another file system"), 0])
def test_a_copy_has_the_bytes_of_the_file_and_does_not_change_with_it(
    answer: OSError | int | None, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if answer is not None:
        monkeypatch.setattr(os, "copy_file_range", lambda *_: _answer(answer), raising=False)
    source, place = tmp_path / "a", tmp_path / "b"
    source.write_bytes(bytes(range(256)) * times)
    copy_file(source, place)
    assert place.read_bytes() == source.read_bytes()
    with open(source, "r+b") as file:
        file.write(b"other")
    assert place.read_bytes()[:5] == bytes(range(5))


def _answer(answer: OSError | int) -> int:
    if isinstance(answer, OSError):
        raise answer
    return answer
