from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from etude import formats
from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.files import Draft
from etude.formats.embedding import embedding_image

FACTS = {"name": "sks", "step": 200, "family": "sd1", "base": "models/x"}


def dictionary(rows: torch.Tensor) -> dict[str, Any]:
    """What A1111 puts into a picture, by the notes on methods."""
    told = {"string_to_token": {"*": 265}, "string_to_param": {"*": {"TORCHTENSOR": rows.tolist()}}}
    return told | {"name": "sks", "step": 200, "sd_checkpoint": "abc", "sd_checkpoint_name": "v1-5"}


def as_text(rows: torch.Tensor, path: Path) -> Path:
    information = PngInfo()
    information.add_text("sd-ti-embedding", base64.b64encode(json.dumps(dictionary(rows)).encode()).decode())
    Image.new("RGB", (32, 32), "green").save(path, pnginfo=information)
    return path


def as_pixels(rows: torch.Tensor, path: Path, mode: str = "RGB") -> Path:
    """The picture that the notes describe, made one value at a time: blocks beside a picture, high bits of any kind."""
    data = zlib.compress(json.dumps(dictionary(rows)).encode(), 9)
    height = 40
    width = -(-len(data) // (3 * height))
    state, sequence = 0, []
    for _ in range(width * height * 3):
        state = (1664525 * state + 1013904223) % 2**32
        sequence.append((state % 255) & 15)
    picture = np.random.default_rng(0).integers(16, 255, (height, 50, 3), dtype=np.uint8) | 1
    blocks = []
    for shift in (0, 4):
        values = [((data[i] >> shift) & 15 if i < len(data) else 0) ^ hidden for i, hidden in enumerate(sequence)]
        style = np.random.default_rng(1).integers(1, 15, (height, width, 3), dtype=np.uint8) << 4
        blocks.append(np.array(values, np.uint8).reshape(height, width, 3) | style)
    line = np.zeros((height, 1, 3), np.uint8)
    whole = np.concatenate([blocks[0], line, picture, line, blocks[1]], axis=1)
    framed = np.zeros((height + 6, whole.shape[1] + 4, 3), np.uint8)  # a black border, as some programs add
    framed[2:-4, 2:-2] = whole
    Image.fromarray(framed).convert(mode).save(path)
    return path


@pytest.mark.parametrize("make", [as_text, as_pixels])
@pytest.mark.parametrize("vectors", [1, 3])
def test_an_embedding_in_a_picture_is_read_from_its_text_or_its_pixels(make: Any, vectors: int, tmp_path: Path) -> None:
    rows = torch.randn(vectors, 16)
    path = make(rows, tmp_path / "any name.png")
    assert formats.identify(path) == "embedding_image"
    tensors, facts = embedding_image.read(path)
    assert torch.allclose(tensors["text_encoder"], rows, atol=1e-6)
    assert facts == {"name": "sks", "step": 200}


def test_pixels_survive_another_lossless_form_that_drops_the_text(tmp_path: Path) -> None:
    rows = torch.randn(2, 16)
    (path,) = embedding_image.write(Artifact("textual_inversion", {"text_encoder": rows}, FACTS), Draft(tmp_path))
    with Image.open(path) as image:
        assert "sd-ti-embedding" in image.info
        image.convert("RGBA").save(tmp_path / "copy.webp", lossless=True)
    for file in (path, tmp_path / "copy.webp"):
        tensors, facts = embedding_image.read(file)
        assert torch.equal(tensors["text_encoder"], rows)
        assert facts["name"] == "sks"


def test_a_picture_is_written_and_read_back(tmp_path: Path) -> None:
    artifact = Artifact("textual_inversion", {"text_encoder": torch.randn(4, 768)}, FACTS)
    (path,) = embedding_image.write(artifact, Draft(tmp_path))
    assert path.name == "sks.png"
    tensors, _ = embedding_image.read(path)
    assert torch.equal(tensors["text_encoder"], artifact.tensors["text_encoder"])
    before = path.read_bytes()
    assert embedding_image.write(artifact, Draft(tmp_path))[0].read_bytes() == before
    with pytest.raises(FormatError, match="SDXL has two"):
        embedding_image.write(Artifact("x", {"text_encoder_2": torch.ones(1)}, FACTS), Draft(tmp_path))


def sequence(count: int) -> list[int]:
    """The numbers by which the values of a block are hidden, by the notes on methods."""
    state, hidden = 0, []
    for _ in range(count):
        state = (1664525 * state + 1013904223) % 4294967296
        hidden.append((state % 255) & 15)
    return hidden


def test_a_written_picture_has_the_text_also_in_the_blocks_beside_a_grey_square(tmp_path: Path) -> None:
    artifact = Artifact("textual_inversion", {"text_encoder": torch.randn(2, 16)}, FACTS)
    (path,) = embedding_image.write(artifact, Draft(tmp_path))
    with Image.open(path) as image:
        text, pixels = image.info["sd-ti-embedding"], np.asarray(image)
    width = (pixels.shape[1] - 66) // 2
    assert pixels.shape == (64, 2 * width + 66, 3)
    assert (pixels[:, width + 1 : -width - 1] == 0x77).all()
    assert not pixels[:, [width, -width - 1]].any()
    low, high = pixels[:, :width].flatten(), pixels[:, -width:].flatten()
    assert min(low.min(), high.min()) >= 128  # so that no column is black
    hidden = sequence(len(low))
    values = [(a & 15 ^ h) | (b & 15 ^ h) << 4 for a, b, h in zip(low, high, hidden, strict=True)]
    packed = zlib.decompressobj().decompress(bytes(values))
    assert packed == base64.b64decode(text)
    data = json.loads(packed)
    assert data.pop("string_to_param") == {"*": {"TORCHTENSOR": artifact.tensors["text_encoder"].tolist()}}
    told = {"name": "sks", "step": 200, "sd_checkpoint": None, "sd_checkpoint_name": "models/x"}
    assert data == told | {"string_to_token": {"*": 265}}


@pytest.mark.parametrize("lines", [(), (20,), (20, 40)])
def test_a_picture_whose_blocks_are_missing_or_of_other_sizes_is_refused(tmp_path: Path, lines: tuple[int]) -> None:
    pixels = np.full((30, 70, 3), 0x99, np.uint8)
    pixels[:, list(lines)] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(FormatError, match="neither the text nor the blocks|no two equal blocks"):
        embedding_image.read(tmp_path / "a.png")


def test_a_picture_too_large_for_an_embedding_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = as_pixels(torch.randn(2, 16), tmp_path / "a.png")
    with Image.open(path) as image:
        size = 3 * image.width * image.height
    monkeypatch.setattr(embedding_image, "MOST", size)
    assert embedding_image.read(path)[0]["text_encoder"].shape == (2, 16)
    monkeypatch.setattr(embedding_image, "MOST", size - 1)
    with pytest.raises(FormatError, match="it is too large for the picture of an embedding"):
        embedding_image.read(path)


def test_a_picture_without_an_embedding_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "black.png")
    (tmp_path / "text.png").write_text("no picture")
    faults = {"noise.png": "holds no embedding", "black.png": "holds no embedding", "text.png": "is text"}
    for name, fault in faults.items():
        with pytest.raises(FormatError, match=fault):
            formats.identify(tmp_path / name)
    information = PngInfo()
    information.add_text("sd-ti-embedding", base64.b64encode(b'{"string_to_param": {}}').decode())
    Image.new("RGB", (8, 8)).save(tmp_path / "empty.png", pnginfo=information)
    with pytest.raises(FormatError, match="another form"):
        embedding_image.read(tmp_path / "empty.png")
