from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from etude.core.errors import BaseError
from etude.evaluation.features import ClipFeatures


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = []
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        paths.append(tmp_path / f"{number}.png")
    return paths


def clip(tiny_base: Path, tmp_path: Path) -> ClipFeatures:
    return ClipFeatures(tiny_base / "clip", device="cpu", threads=1, root=tmp_path / "cache")


def test_features_are_those_of_the_clip_model_at_length_one(
    tiny_base: Path, tmp_path: Path, pictures: list[Path]
) -> None:
    made = clip(tiny_base, tmp_path)
    model = CLIPModel.from_pretrained(tiny_base / "clip").eval()
    pixels = CLIPImageProcessorPil.from_pretrained(tiny_base / "clip")(
        images=[Image.open(path) for path in pictures], return_tensors="pt"
    )
    texts = ["a red cat", "a blue house on a red background"]
    words = CLIPTokenizer.from_pretrained(tiny_base / "clip")(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        theirs = model(**words, **pixels)
    assert made.pictures(pictures) == pytest.approx(theirs.image_embeds.numpy(), abs=1e-5)
    assert made.texts(texts) == pytest.approx(theirs.text_embeds.numpy(), abs=1e-5)
    assert np.linalg.norm(made.pictures(pictures), axis=1) == pytest.approx(1.0, abs=1e-12)


def test_a_feature_is_computed_once_for_equal_pixels(tiny_base: Path, tmp_path: Path, pictures: list[Path]) -> None:
    made = clip(tiny_base, tmp_path)
    Image.open(pictures[0]).save(tmp_path / "copy.bmp")
    made.pictures([*pictures, tmp_path / "copy.bmp"])
    assert made.new == 3
    again = clip(tiny_base, tmp_path)
    assert (again.pictures(pictures) == made.pictures(pictures)).all()
    assert again.new == 0
    assert "_model" not in vars(again)  # the model was not opened


def test_a_model_that_was_forgotten_is_read_again_for_the_next_feature(
    tiny_base: Path, tmp_path: Path, pictures: list[Path]
) -> None:
    made, model = clip(tiny_base, tmp_path), "_model"
    made.pictures(pictures[:2])
    made.forget()
    assert model not in vars(made)
    made.pictures(pictures)
    assert made.new == 3
    assert model in vars(made)


def test_a_feature_does_not_depend_on_its_neighbours(tiny_base: Path, tmp_path: Path, pictures: list[Path]) -> None:
    together = clip(tiny_base, tmp_path / "one").pictures(pictures)
    alone = clip(tiny_base, tmp_path / "two").pictures(pictures[2:])
    assert (together[2] == alone[0]).all()


def test_a_folder_without_a_clip_is_an_error_that_names_the_parameter(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match=r"evaluate\.clip"):
        ClipFeatures(tmp_path, device="cpu", threads=1)
