"""Embeddings of OneTrainer, ComfyUI, diffusers' advanced scripts and the first code: their rows, and their words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from etude.core.errors import FormatError
from etude.formats.kinds import open_any

SD1, SD2, G = torch.randn(3, 768), torch.randn(3, 1024), torch.randn(3, 1280)


def read(
    folder: Path, tensors: dict[str, Tensor], name: str = "zork.safetensors"
) -> tuple[str, str, dict[str, Tensor]]:
    """Word, family and rows of a file."""
    path = folder / name
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    _, artifact = open_any(path)
    assert artifact.method == "textual_inversion"
    return artifact.facts["name"], artifact.facts.get("family", ""), artifact.tensors


@pytest.mark.parametrize(
    ("key", "rows", "family"),
    [
        ("emb_params", SD1, "sd1"),
        ("emp_params", SD1, "sd1"),
        ("clip_l", SD1, "sd1"),
        ("text_encoders_0", SD1, "sd1"),
        ("emp_params", SD2, "sd2"),
        ("clip_h", SD2, "sd2"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_key_that_is_no_word_leaves_the_word_to_the_files_name(
    key: str, rows: Tensor, family: str, suffix: str, tmp_path: Path
) -> None:
    word, found, tensors = read(tmp_path, {key: rows}, f"zork{suffix}")
    assert (word, found) == ("zork", family)
    assert list(tensors) == ["text_encoder"]
    assert tensors["text_encoder"].equal(rows)


@pytest.mark.parametrize("keys", [("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1")])
def test_the_rows_of_two_text_encoders_are_one_word_of_sdxl(keys: tuple[str, str], tmp_path: Path) -> None:
    word, family, tensors = read(tmp_path, dict(zip(keys, (SD1, G), strict=True)))
    assert (word, family) == ("zork", "sdxl")
    assert tensors["text_encoder"].equal(SD1)
    assert tensors["text_encoder_2"].equal(G)


@pytest.mark.parametrize(("key", "lacks"), [("clip_g", "clip_l"), ("text_encoders_1", "text_encoders_0")])
def test_half_an_embedding_says_what_is_missing(key: str, lacks: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=f"holds `{key}` but no `{lacks}`"):
        read(tmp_path, {key: G})


def test_the_vectors_of_a_token_are_the_rows_of_one_word(tmp_path: Path) -> None:
    vectors = {"<sks>_1": SD1[1], "<sks>": SD1[0], "<sks>_2": SD1[2]}
    word, _, tensors = read(tmp_path, vectors, "learned_embeds.bin")
    assert word == "<sks>"
    assert tensors["text_encoder"].equal(SD1)
    with pytest.raises(FormatError, match="not know"):
        read(tmp_path, {"<sks>": SD1[0], "<other>": SD1[1]}, "learned_embeds.bin")


def test_the_first_codes_star_is_no_word(tmp_path: Path) -> None:
    assert read(tmp_path, {"*": SD1}, "zork.pt")[0] == "zork"
    assert read(tmp_path, {"<cat>": SD1}, "zork.pt")[0] == "<cat>"


@pytest.mark.parametrize(
    "rows",
    [torch.zeros(0, 768), torch.zeros(3, 0), torch.zeros(()), torch.zeros(2, 3, 768), torch.full((2, 768), torch.nan)],
)
@pytest.mark.parametrize("key", ["emb_params", "sks"])
def test_what_cannot_be_rows_is_refused(key: str, rows: Tensor, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"where rows of one embedding should be|not finite"):
        read(tmp_path, {key: rows})
    with pytest.raises(FormatError, match=r"where rows of one embedding should be|not finite"):
        read(tmp_path, {key: rows}, "zork.pt")


@pytest.mark.parametrize("value", ["text", 3, [1.0], {"a": 1}, None])
def test_what_is_no_tensor_is_refused(value: object, tmp_path: Path) -> None:
    for number, data in enumerate(({"string_to_param": {"*": value}}, {"sks": value}, {"emb_params": value})):
        torch.save(data, tmp_path / f"{number}.pt")
        with pytest.raises(FormatError):
            open_any(tmp_path / f"{number}.pt")
