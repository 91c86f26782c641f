"""Nothing depends on the order in which a file system lists files: it differs between disks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.base.digest import part_digest
from etude.core.files import sha256_tree, tree_files, write_json
from etude.core.method import method_names
from etude.core.shards import write_shards
from etude.images.folder import list_folder
from etude.project import params_files
from etude.training.batches import load_images, load_pictures
from tasks.prepare import prepare
from tests.tasks.front import draw, make_project

NAMES = ("b", "a", "d", "c")


class Listed:
    """What `os.scandir` gives, in another order."""

    def __init__(self, entries: Iterator[Any], backwards: bool) -> None:
        self.entries = sorted(entries, key=lambda entry: entry.name, reverse=backwards)

    def __enter__(self) -> Iterator[Any]:
        return iter(self.entries)

    def __exit__(self, *_: object) -> None: ...

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if not self.entries:
            raise StopIteration
        return self.entries.pop(0)

    def close(self) -> None: ...


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], list[Any]]:
    """What a function gives where folders are listed by name, and where backwards."""
    scan, names = os.scandir, os.listdir

    @contextmanager
    def listed(backwards: bool) -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", lambda path=".": Listed(scan(path), backwards))
            patch.setattr(os, "listdir", lambda path=".": sorted(names(path), reverse=backwards))
            yield

    def call(function: Callable[[], Any]) -> list[Any]:
        found = []
        for backwards in (False, True):
            with listed(backwards):
                found.append(function())
        return found

    return call


Both = Callable[[Callable[[], Any]], list[Any]]


def test_the_files_of_a_folder_and_their_digest(both: Both, tmp_path: Path) -> None:
    for name in NAMES:
        for file in (tmp_path / name, tmp_path / f"{name}-folder/{name}"):
            file.parent.mkdir(exist_ok=True)
            file.write_text(name)
    (tmp_path / "link").symlink_to("a-folder")
    (tmp_path / "gone").symlink_to("nothing")
    for function in (tree_files, sha256_tree, list_folder):
        first, second = both(partial(function, tmp_path))
        assert first == second
        assert str(first) == str(second)  # their order too


def test_prepared_pictures_and_their_listing(
    both: Both, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_project(tmp_path, tiny_base))
    for number, name in enumerate(NAMES):
        draw(Path("raw", f"{name}.png"), number // 2)  # a and b are the same picture, and c and d
        Path("raw", f"{name}.broken.png").write_text("no picture")

    def digest() -> str:
        prepare("pets")
        return sha256_tree("data/pets/prepared")

    first, second = both(digest)
    assert first == second


def test_what_training_and_measuring_read(both: Both, tmp_path: Path) -> None:
    for number, name in enumerate(NAMES):
        draw(tmp_path / f"{name}.png", number, (64, 64))
    write_shards(tmp_path, NAMES, lambda _: {key: torch.zeros(4, 8, 8) for key in ("mean", "logvar")})
    write_json(tmp_path / "images.json", {"images": {name: {} for name in NAMES}})
    for function in (load_images, load_pictures):
        first, second = both(partial(function, tmp_path))
        assert first.names == second.names == tuple(sorted(NAMES))


def test_the_digest_of_a_base_and_the_methods_of_the_project(both: Both, tiny_base: Path, root: Path) -> None:
    for part in ("unet", "vae", "text"):
        assert len({*both(partial(part_digest, tiny_base, part))}) == 1
    for function in (method_names, lambda: params_files(root)):
        first, second = both(function)
        assert first == second
