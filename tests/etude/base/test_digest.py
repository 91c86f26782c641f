"""Digests of parts: what changes them, and that remembering them never serves a stale one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from etude.base import digest
from etude.base.digest import PARTS, part_digest
from etude.core import store
from etude.core.errors import BaseError
from tests.etude.base.ldm import to_ldm
from tests.etude.base.test_base import configuration_beside
from tests.etude.conftest import change


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is `.cache` in the working folder."""
    monkeypatch.chdir(tmp_path)


def digests(path: Path) -> dict[str, str]:
    return {part: part_digest(path, part) for part in PARTS}


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [part for part in before if before[part] != after[part]]


def flip(file: Path) -> None:
    """Change one value and nothing about the file's size."""
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors[name] = -tensors[name] + 1
    file.unlink()
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("unet/diffusion_pytorch_model.safetensors", "unet"),
        ("vae/diffusion_pytorch_model.safetensors", "vae"),
        ("text_encoder/model.safetensors", "text"),
    ],
)
def test_other_weights_change_the_digest_of_their_part_alone(copy: Path, file: str, part: str) -> None:
    before = digests(copy)
    flip(copy / file)
    assert changed(before, digests(copy)) == [part]


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("vae/config.json", "vae"),
        ("text_encoder/config.json", "text"),
        ("scheduler/scheduler_config.json", "unet"),
        ("tokenizer/vocab.json", "text"),
    ],
)
def test_another_configuration_changes_the_digest_of_its_part_alone(copy: Path, file: str, part: str) -> None:
    before = digests(copy)
    change(copy / file, scaling_factor=1)
    assert changed(before, digests(copy)) == [part]


def test_what_is_not_loaded_does_not_count(copy: Path) -> None:
    before = digests(copy)
    for name in ("vae/README.md", "vae/diffusion_pytorch_model.fp16.safetensors", "model_index.json"):
        (copy / name).write_text("{}")
    assert digests(copy) == before


def test_the_place_of_a_base_does_not_count(copy: Path, folder_of: Callable[[str], Path]) -> None:
    assert digests(copy) == digests(folder_of("sd1"))


def test_in_a_single_file_each_part_has_its_own_digest(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    tensors = {name: tensor.contiguous() for name, tensor in to_ldm(folder_of("sd1"), "sd1").items()}
    save_file(tensors, file)
    configuration_beside(folder_of("sd1"), tmp_path / "model.config")
    before = digests(file)

    tensors["first_stage_model.encoder.conv_in.bias"] += 1
    save_file(tensors, file)
    assert changed(before, digests(file)) == ["vae"]

    change(tmp_path / "model.config/scheduler/scheduler_config.json", prediction_type="v_prediction")
    assert changed(before, digests(file)) == ["unet", "vae"]


def test_a_remembered_digest_is_used(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SETTLED", -1.0)
    monkeypatch.setattr(store, "REMEMBERED", 0)
    before = digests(copy)
    monkeypatch.setattr(digest, "sha256_file", lambda file: pytest.fail(f"{file} was hashed again"))
    assert digests(copy) == before


def test_a_change_of_equal_size_and_time_is_noticed(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SETTLED", -1.0)
    monkeypatch.setattr(store, "REMEMBERED", 0)
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    before, stat = part_digest(copy, "unet"), file.stat()

    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    with open(file, "r+b") as handle:  # in place: even the inode stays
        handle.write(data)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    assert (file.stat().st_size, file.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert part_digest(copy, "unet") != before


def test_a_file_written_a_moment_ago_is_not_remembered(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "REMEMBERED", 0)
    file = copy / "unet" / "config.json"
    file.write_text(file.read_text())
    part_digest(copy, "unet")
    assert not list(Path(".cache").rglob("*.json"))


def test_an_unknown_part_is_refused(copy: Path) -> None:
    with pytest.raises(BaseError, match="unet, vae, text"):
        part_digest(copy, "tokenizer")  # type: ignore[arg-type]
