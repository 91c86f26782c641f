"""Masks by a network, on small networks with the true layout; they lie beside the pictures and prepare reads them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file, save_file
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, CLIPTokenizer, ViTImageProcessorPil

from commands.base import base
from commands.masking import drawn, open_finder
from commands.masks import masks
from etude.core.errors import ArgumentError, BaseError, InputError
from etude.core.files import read_json
from tasks.prepare import prepare
from tests.etude.captions import wd14_model as onnx
from tests.shipped import dvc, git
from tests.tasks.front import draw, make_project

TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def clipseg(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a CLIPSeg with random weights, as transformers saves it."""
    folder = tmp_path_factory.mktemp("models") / "clipseg"
    tokenizer = CLIPTokenizer.from_pretrained(tiny_base / "tokenizer")
    words = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id, "pad_token_id": 0}
    config = CLIPSegConfig(
        text_config={**TOWER, **words, "eos_token_id": tokenizer.eos_token_id},
        vision_config={**TOWER, "image_size": 32, "patch_size": 8},
        projection_dim=8, extract_layers=[0, 1], reduce_dim=8, decoder_num_attention_heads=2,
        decoder_intermediate_size=16, conditional_layer=0,
    )  # fmt: skip
    torch.manual_seed(0)
    CLIPSegForImageSegmentation(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(make_project(tmp_path, Path("nowhere")))
    draw(Path("raw/a.png"), 1, (100, 80))
    draw(Path("raw/sub/b.jpg"), 2, (80, 120))
    return Path("raw")


def test_clipseg_finds_what_transformers_own_example_finds(clipseg: Path) -> None:
    image = Image.effect_noise((90, 60), 80).convert("RGB")
    found = open_finder(clipseg, "a cat")(image)
    pixels = ViTImageProcessorPil.from_pretrained(clipseg)(image, return_tensors="pt")["pixel_values"]
    tokens = CLIPTokenizer.from_pretrained(clipseg)(["a cat"], return_tensors="pt")
    with torch.no_grad():
        expected = CLIPSegForImageSegmentation.from_pretrained(clipseg).eval()(**tokens, pixel_values=pixels).logits
    np.testing.assert_allclose(found, expected.sigmoid().reshape(found.shape).numpy(), atol=1e-5)
    assert not np.allclose(found, open_finder(clipseg, "a red dog")(image))


def write_onnx(path: Path, side: int = 320) -> Path:
    """A network with the inputs and outputs of rembg's: the mean of the three colours."""
    node = onnx._node("ReduceMean", ["input.1"], "1959", axes=[1])
    graph = (
        onnx._field(1, node) + onnx._field(2, b"u2net") + onnx._field(11, onnx._value("input.1", [1, 3, side, side]))
    )
    graph += onnx._field(12, onnx._value("1959", [1, 1, side, side]))
    opset = onnx._field(1, b"") + onnx._field(2, 13)
    path.write_bytes(onnx._field(1, 8) + onnx._field(8, opset) + onnx._field(7, graph))
    return path


def test_a_network_of_rembg_sees_and_spreads_its_values_as_there(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    image = Image.effect_noise((90, 60), 40).convert("RGB")
    found = open_finder(write_onnx(tmp_path / "u2net_human_seg.onnx"), "")(image)
    pixels = np.asarray(image.resize((320, 320), Image.Resampling.LANCZOS)).astype(np.float64)
    pixels = (pixels / pixels.max() - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    values = pixels.mean(axis=2)
    np.testing.assert_allclose(found, (values - values.min()) / (values.max() - values.min()), atol=1e-4)
    with pytest.raises(BaseError, match=r"has the input shape.*rembg's isnet-anime has \[1, 3, 1024, 1024\]"):
        open_finder(write_onnx(tmp_path / "isnet-anime.onnx"), "")
    for other in ("other.onnx", "u2net_cloth_seg.onnx"):
        with pytest.raises(BaseError, match="is not supported by its name: .* but not with u2net_cloth"):
            open_finder(write_onnx(tmp_path / other), "")
    found = open_finder(write_onnx(tmp_path / "isnet-anime.onnx", 1024), "")(image)
    pixels = np.asarray(image.resize((1024, 1024), Image.Resampling.LANCZOS)).astype(np.float64)
    values = (pixels / pixels.max() - [0.485, 0.456, 0.406]).mean(axis=2)
    np.testing.assert_allclose(found, (values - values.min()) / (values.max() - values.min()), atol=1e-4)
    with pytest.raises(ArgumentError, match="--text: is for CLIPSeg"):
        open_finder(tmp_path / "u2net_human_seg.onnx", "dog")


def test_each_picture_gets_a_mask_that_prepare_reads_and_a_persons_mask_stays(raw: Path, clipseg: Path) -> None:
    Image.new("L", (80, 120), 77).save(raw / "sub/b-masklabel.png")
    masks("pets", clipseg, "a cat", threshold=0.0, grow=0.0)
    with Image.open(raw / "a-masklabel.png") as mask:
        assert (mask.mode, mask.size) == ("L", (100, 80))
        made = np.asarray(mask)
    for replace in (False, True):
        before = (raw / "sub/b-masklabel.png").read_bytes()
        masks("pets", clipseg, "a red dog", threshold=0.0, grow=0.0, replace=replace)
        assert (raw / "sub/b-masklabel.png").read_bytes() == before
        with Image.open(raw / "a-masklabel.png") as again:
            assert (np.asarray(again) == made).all() != replace
    prepare("pets")
    entries = read_json("data/pets/prepared/images.json")["images"].values()
    assert {entry["sources"][0]: entry["attention"] for entry in entries} == {
        "a.png": "a-masklabel.png",
        "sub/b.jpg": "b-masklabel.png",
    }


def test_a_mask_that_a_person_corrected_is_not_made_again(raw: Path, clipseg: Path) -> None:
    masks("pets", clipseg, "a cat", threshold=0.0, grow=0.0)
    path = raw / "a-masklabel.png"
    with Image.open(path) as mask:
        text = PngInfo()
        text.add_text("Software", mask.info["Software"])  # some programs keep the texts of a file
        mask.putpixel((3, 3), 255)
        mask.save(path, pnginfo=text)
    corrected = path.read_bytes()
    (raw / "sub/b-masklabel.png").write_bytes(b"damaged")
    masks("pets", clipseg, "a red dog", threshold=0.0, grow=0.0, replace=True)
    assert path.read_bytes() == corrected
    assert (raw / "sub/b-masklabel.png").read_bytes() == b"damaged"


@pytest.mark.parametrize("damage", ["cut", "missing tensor", "no preprocessor"])
def test_a_damaged_clipseg_is_named(damage: str, clipseg: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(clipseg, tmp_path / "clipseg")
    if damage == "cut":
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:5000])
    elif damage == "missing tensor":
        tensors = load_file(folder / "model.safetensors")
        del tensors["decoder.film_mul.weight"]
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    else:
        (folder / "preprocessor_config.json").unlink()
    with pytest.raises(BaseError, match=r"clipseg: (cannot be opened as CLIPSeg|lacks 1 tensors).*fetch it whole"):
        open_finder(folder, "a cat")


def test_pictures_whose_names_differ_by_case_alone_would_share_a_mask_on_some_systems(raw: Path, clipseg: Path) -> None:
    draw(raw / "A.jpg", 5)
    with pytest.raises(InputError, match="a.png: would have the same mask as A.jpg"):
        masks("pets", clipseg, "a cat")


def test_white_begins_at_the_threshold_and_grows() -> None:
    values = np.zeros((20, 20), np.float32)
    values[10, 10], values[3, 3] = 0.5, 0.29
    plain, grown = (np.asarray(drawn(values, (20, 20), 0.3, share)) for share in (0.0, 0.1))
    assert plain.sum() == 255
    assert plain[10, 10] == 255
    assert (grown == 255).sum() == 25
    assert (grown[8:13, 8:13] == 255).all()
    assert np.asarray(drawn(values, (40, 20), 0.0, 0.0)).max() == pytest.approx(128, abs=40)


def test_what_finds_no_masks_is_refused_before_anything_is_written(raw: Path, clipseg: Path, tiny_base: Path) -> None:
    Path("listed").mkdir()
    Path("listed/config.json").write_text("[]", encoding="utf-8")
    for model, text, told in (
        (tiny_base / "clip", "a cat", "is neither the folder of a CLIPSeg nor"),
        (Path("listed"), "a cat", "listed/config.json"),  # its JSON is a list
        (Path("nowhere"), "a cat", "is neither the folder of a CLIPSeg nor"),
        (clipseg, "", "--text: is missing"),
    ):
        with pytest.raises((ArgumentError, BaseError), match=told):
            masks("pets", model, text)
    draw(raw / "a.jpg", 3)
    with pytest.raises(InputError, match="would have the same mask as a.jpg"):
        masks("pets", clipseg, "a cat")
    assert sorted(path.name for path in raw.rglob("*.*")) == ["a.jpg", "a.png", "b.jpg"]


def test_etude_base_brings_a_clipseg_and_says_what_it_is_for(
    clipseg: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "-q")
    dvc(tmp_path, "init", "-q")
    base(str(clipseg), Path("models/clipseg"))
    assert "etude masks SET --model models/clipseg --text dog" in capsys.readouterr().out
    open_finder(Path("models/clipseg"), "a cat")
