from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import CLIPModel

from etude.base.clip import Clip, ClipVision
from etude.core.errors import BaseError
from etude.core.files import read_json, write_json
from etude.core.tensors import read_tensors, write_tensors

PICTURE = Image.linear_gradient("L").convert("RGB")


@pytest.fixture
def folder(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base / "clip", tmp_path / "clip"))


def test_a_vision_tower_sees_what_the_whole_clip_sees(folder: Path) -> None:
    whole, tower = Clip(folder, "cpu", "").see(PICTURE), ClipVision(folder, "cpu", "").see(PICTURE)
    assert whole.dtype == torch.float32
    assert torch.equal(whole, tower)


def test_an_embedding_can_be_learned_from(folder: Path) -> None:
    start = Clip(folder, "cpu", "").see(PICTURE).requires_grad_()
    start.square().sum().backward()
    assert start.grad is not None


def test_half_weights_are_computed_with_in_float32(folder: Path) -> None:
    CLIPModel.from_pretrained(folder).half().save_pretrained(folder)
    assert Clip(folder, "cpu", "").read(["a red fox"]).dtype == torch.float32


def test_texts_of_any_length_are_read_together_as_each_alone(folder: Path) -> None:
    clip, texts = Clip(folder, "cpu", ""), ["a red fox", "", "a cat " * 60]
    together = clip.read(texts)
    assert together.shape[0] == 3
    for text, embedding in zip(texts, together, strict=True):
        torch.testing.assert_close(clip.read([text])[0], embedding, rtol=0, atol=1e-5)
    assert not torch.allclose(together[0], together[1])


@pytest.mark.parametrize("lost", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused_with_the_remedy(folder: Path, lost: str) -> None:
    (folder / lost).unlink()
    with pytest.raises(BaseError, match=r"is no CLIP folder.*Next: name another"):
        Clip(folder, "cpu", "name another")


def test_a_configuration_that_does_not_fit_is_refused_in_plain_words(folder: Path) -> None:
    config = read_json(folder / "config.json")
    config["projection_dim"] += 1
    write_json(folder / "config.json", config)
    with pytest.raises(BaseError, match="other shapes than its config.json says"):
        Clip(folder, "cpu", "name another")


def test_a_damaged_file_is_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BaseError, match=r"is no CLIP folder"):
        Clip(folder, "cpu", "name another")


def test_a_clip_that_lacks_a_tensor_is_refused_by_its_name(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = read_tensors(file)[0]
    write_tensors(file, {name: tensor for name, tensor in tensors.items() if name != "visual_projection.weight"})
    with pytest.raises(BaseError, match=r"lacks 1 tensors, such as visual_projection\.weight"):
        Clip(folder, "cpu", "name another")


def test_numbers_that_are_not_finite_are_refused_by_name(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = read_tensors(file)[0]
    tensors["visual_projection.weight"][0, 0] = torch.nan
    write_tensors(file, tensors)
    for kind in (Clip, ClipVision):
        with pytest.raises(BaseError, match=r"in `visual_projection\.weight` that are not finite.*Next: name another"):
            kind(folder, "cpu", "name another")


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps({"weight": object}, 2)])
def test_a_pickle_that_cannot_be_opened_is_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(BaseError, match=r"is no CLIP folder.*Next: name another"):
        Clip(folder, "cpu", "name another")
