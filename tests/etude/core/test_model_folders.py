from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from etude.core.errors import BaseError, EtudeError
from etude.core.model_folders import paths_in, read_config, weight_files, weight_paths


def test_safetensors_come_before_pickles_and_full_precision_before_half(tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "model.fp16.safetensors", "model.safetensors"):
        (tmp_path / name).touch()
    chosen = []
    for _ in range(3):
        [file] = weight_files(tmp_path)
        chosen.append(file.name)
        file.unlink()
    assert chosen == ["model.safetensors", "model.fp16.safetensors", "pytorch_model.bin"]
    assert weight_files(tmp_path) == []


def test_links_to_files_and_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs/one").touch()
    model = tmp_path / "model"
    model.mkdir()
    (model / "model_index.json").symlink_to("../blobs/one")
    (model / "unet").symlink_to("../blobs")
    (model / "around").symlink_to("..")
    (model / "gone").symlink_to("nowhere")
    (model / "self").symlink_to(".")
    assert paths_in(model) == ["model_index.json", "self/model_index.json", "unet/one"]


def test_shards_follow_their_index_each_once(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}}))
    shards = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    assert weight_files(tmp_path) == [index, *shards]
    assert weight_paths(tmp_path) == shards


@pytest.mark.parametrize("data", [{}, {"weight_map": ["a"]}, {"weight_map": None}, [], "text"])
def test_an_index_without_a_map_is_refused(data: Any, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(data))
    with pytest.raises(BaseError, match=r"index\.json: (has no `weight_map`|holds no JSON object)"):
        weight_files(tmp_path)


def test_an_index_that_names_what_no_file_can_be_called_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "x" * 5_000}}))
    with pytest.raises(EtudeError, match=r"index\.json: refers to 'x{60}', which is not a file"):
        weight_files(tmp_path)


def test_a_folder_in_place_of_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match=r"cannot be read \(Is a directory\)"):
        read_config(tmp_path)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"a": ' + "1" * 5_000 + "}", "\udcff"])
def test_a_configuration_that_is_no_json_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BaseError, match=r"config\.json: is not JSON"):
        read_config(tmp_path / "config.json")
