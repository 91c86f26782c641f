"""WD14 on a small model with the true layout, against the rules of kohya's script and of SmilingWolf's app."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from etude.captions import wd14
from etude.captions.wd14 import describe_pictures, pixels, read_table, refuse_missing, shrink_by_area
from etude.core.errors import BaseError, EtudeWarning, InputError
from tests.etude.captions.tagging import tags
from tests.etude.captions.wd14_model import RATINGS, SIDE, build_timm, build_wd14

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `tagger` is not installed")
SIZES = [(40, 30), (20, 32), (32, 32), (64, 64), (90, 50), (10, 10), (31, 77)]


def described(*arguments: Any) -> list[str]:
    return list(describe_pictures(*arguments))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wd14(tmp_path_factory.mktemp("wd14") / "model")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(7)
    for number in range(200):
        size = SIZES[number % len(SIZES)]
        colours = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        colours.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number:03}.png")
    return sorted(folder.iterdir())


Scores = tuple[dict[str, list[str]], np.ndarray]


@pytest.fixture(scope="module")
def app_scores(model: Path, pictures: list[Path]) -> Scores:
    """Names by category, and scores as SmilingWolf's app computes them: one picture at a time."""
    session, scores = onnxruntime.InferenceSession(model / "model.onnx"), []
    for path in pictures:
        image = Image.open(path).convert("RGB")
        side = max(image.size)
        square = np.full((side, side, 3), 255, np.uint8)
        left, top = (side - image.width) // 2, (side - image.height) // 2
        square[top : top + image.height, left : left + image.width] = image
        small = Image.fromarray(square).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        bgr = np.flip(np.asarray(small, np.float32), axis=2)
        scores.append(session.run(None, {"input_1:0": bgr[None]})[0][0])
    with open(model / "selected_tags.csv", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    names = {kind: [row[1] for row in rows if row[2] == kind] for kind in "049"}
    return names, np.stack(scores)


@pytest.mark.parametrize("threshold", [0.2, 0.35, 0.6])
def test_the_text_is_that_of_the_reference_programs_tag_by_tag(
    model: Path, pictures: list[Path], app_scores: Scores, threshold: float
) -> None:
    """Kohya's rule: general tags, then characters, in the table's order. SmilingWolf's: general tags by score."""
    names, scores = app_scores
    kohya, app = [], []
    everything = names["9"] + names["0"] + names["4"]
    for row in scores:
        chosen = [place for place in np.flatnonzero(row >= np.float32(threshold)) if place >= 4]
        kohya.append(", ".join(everything[place] for place in chosen))
        general = [place for place in chosen if place < 4 + len(names["0"])]
        by_score = np.array(general, int)[np.argsort(-row[general], kind="stable")]
        kept = {"^_^", "||_||", "o_o", "0_0"}
        listed = [name if (name := everything[place]) in kept else name.replace("_", " ") for place in by_score]
        app.append(", ".join(listed).replace("(", r"\(").replace(")", r"\)"))
    plain = tags(general=threshold, character=threshold, resize="bicubic", underscores="keep")
    assert described(iter(pictures), model, plain, "cpu") == kohya
    as_app = tags(
        general=threshold,
        resize="bicubic",
        categories=["general"],
        underscores="smilingwolf",
        escape="smilingwolf",
        order="score",
    )
    assert described(pictures, model, as_app, "cpu") == app
    assert np.mean([text.count(",") for text in kohya]) > 5
    assert len(set(kohya)) > 150


def test_the_rating_is_the_likeliest_of_the_four(model: Path, pictures: list[Path], app_scores: Scores) -> None:
    texts = described(pictures[:5], model, tags(resize="bicubic", rating="first"), "cpu")
    assert [text.split(", ")[0] for text in texts] == [RATINGS[row[:4].argmax()] for row in app_scores[1][:5]]


def test_a_model_with_a_fixed_batch_gives_the_same_texts(tmp_path: Path, model: Path, pictures: list[Path]) -> None:
    fixed = build_wd14(tmp_path / "fixed", batch=4)
    assert described(pictures[:6], fixed, tags(), "cpu") == described(pictures[:6], model, tags(), "cpu")


@pytest.mark.parametrize("side", [9, 13, 16, 20, 24, 31])
def test_a_large_picture_is_shrunk_as_opencv_does(side: int) -> None:
    """The mean by the area that a pixel covers; where OpenCV is installed, equal to its own result."""
    square = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    shrunk = shrink_by_area(square, 8)
    finer = square.repeat(8, 0).repeat(8, 1).astype(float)  # each new pixel covers side × side of these
    exact = finer.reshape(8, side, 8, side, 3).mean((1, 3))
    assert np.abs(shrunk - exact).max() < 0.5 + 1e-3
    try:
        import cv2
    except ImportError:
        return
    assert np.array_equal(shrunk, cv2.resize(square, (8, 8), interpolation=cv2.INTER_AREA))


def test_a_small_picture_is_enlarged_on_white_and_blue_comes_first() -> None:
    red = pixels(Image.new("RGB", (8, 16), (255, 0, 0)), 32, "area")
    assert red.shape == (32, 32, 3)
    assert red[16, 16].tolist() == [0, 0, 255]
    assert red[16, 0].tolist() == [255, 255, 255]


def test_timms_form_gives_the_texts_of_its_own_transforms(tmp_path: Path, model: Path, pictures: list[Path]) -> None:
    """By timm's transforms on a white square, and blue first at the end, as SmilingWolf's example for timm does."""
    timm = pytest.importorskip("timm", reason="timm is not installed")
    folder, rows = build_timm(tmp_path / "timm", model), read_table(model / "selected_tags.csv")
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config(network.pretrained_cfg, model=network))
    expected = []
    for path in pictures[:9]:
        image = Image.open(path).convert("RGB")
        square = Image.new("RGB", (max(image.size), max(image.size)), "white")
        square.paste(image, ((square.width - image.width) // 2, (square.width - image.height) // 2))
        scores = network(transform(square)[None, [2, 1, 0]])[0].sigmoid().detach().numpy()
        chosen = [place for place in np.flatnonzero(scores >= np.float32(0.35)) if place >= 4]
        expected.append(", ".join(rows[place].name for place in chosen))
    settings = tags(resize="bicubic", underscores="keep")
    assert described(pictures[:9], folder, settings, "cpu") == expected
    assert len(set(expected)) == 9


def test_a_model_of_timm_without_timm_is_refused(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr(wd14, "find_spec", lambda name: name != "timm" or None)
    with pytest.raises(
        InputError, match=r"model.safetensors, which needs timm. Next: put model.onnx in its folder, or run `pip"
    ):
        refuse_missing(tmp_path)


def test_what_is_missing_is_named_before_anything_runs(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_missing(model)
    with pytest.raises(InputError, match=r"lacks model.onnx.*etude base"):
        refuse_missing(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(InputError, match=r"lacks selected_tags.csv"):
        refuse_missing(tmp_path)
    monkeypatch.setattr(wd14.onnx, "is_installed", lambda: False)
    with pytest.raises(InputError, match=r"wd14 needs onnxruntime. Next: run `make setup EXTRAS=tagger`"):
        refuse_missing(model)


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path, model: Path, pictures: list[Path]) -> None:
    table = (model / "selected_tags.csv").read_text(encoding="utf-8")
    other = build_wd14(tmp_path / "other")
    (other / "selected_tags.csv").write_text(table.rsplit("\n", 2)[0], encoding="utf-8", newline="")
    with pytest.raises(BaseError, match="its network gives 9083 scores, but its selected_tags.csv has 9082 tags"):
        described(pictures[:1], other, tags(), "cpu")
    (other / "selected_tags.csv").write_text("tag\n1girl\n", encoding="utf-8")
    with pytest.raises(BaseError, match="has no tags, or lacks the column `name`"):
        read_table(other / "selected_tags.csv")
    (other / "selected_tags.csv").write_bytes(b"name,category\n\xff,0\n")
    with pytest.raises(BaseError, match="cannot be read"):
        read_table(other / "selected_tags.csv")


def test_a_network_that_is_damaged_or_another_kind_is_refused(tmp_path: Path, pictures: list[Path]) -> None:
    logits = build_wd14(tmp_path / "logits", last="Identity")
    with pytest.raises(BaseError, match="its network gives scores that are not between 0 and 1"):
        described(pictures[:1], logits, tags(), "cpu")
    whole = (logits / "model.onnx").read_bytes()
    (logits / "model.onnx").write_bytes(whole[:1000])
    with pytest.raises(BaseError, match="cannot be opened"):
        described(pictures[:1], logits, tags(), "cpu")
    (logits / "model.onnx").write_bytes(whole.replace(b"\x08\x20\x0a\x02\x08\x03", b"\x08\x20\x0a\x02\x08\x04"))
    with pytest.raises(BaseError, match=r"cannot be opened|its input has the shape"):
        described(pictures[:1], logits, tags(), "cpu")


def test_a_gpu_that_the_runtime_cannot_use_is_said(model: Path, pictures: list[Path]) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this runtime uses a GPU")
    with pytest.warns(EtudeWarning, match="wd14 runs on the CPU"):
        assert described(pictures[:1], model, tags(), "cuda")
