"""DeepDanbooru with all its layers, a few channels wide, against its network and A1111's rules written otherwise."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from etude.captions.deepdanbooru import FILE, describe_pictures, fitted, refuse_missing
from etude.core.errors import FormatError, InputError
from tests.etude.captions.tagging import tags

RATINGS = ["rating:safe", "rating:questionable", "rating:explicit"]
NAMES = ["1girl", "blue_eyes", "^_^", r"\m/", "smile_(style)", "absurdres", "zebra", *(f"tag_{n}" for n in range(50))]
TAGS = [*NAMES, *RATINGS]
HEAD = 0.02  # times random weights: scores are about 0.5
A1111 = {"underscores": "a1111", "escape": "a1111", "order": "alphabet"}


class Bottleneck(nn.Module):
    """Three convolutions, and one beside them where the width or the size changes."""

    def __init__(self, taken: int, width: int, stride: int, beside: bool) -> None:
        super().__init__()
        pads = nn.ZeroPad2d((0, 1, 0, 1) if stride == 2 else 1)
        self.beside = nn.Conv2d(taken, 4 * width, 1, stride) if beside else nn.Identity()
        self.first, self.third = nn.Conv2d(taken, width, 1), nn.Conv2d(width, 4 * width, 1)
        self.second = nn.Conv2d(width, width, 3, stride)
        self.path = nn.Sequential(self.first, nn.ReLU(), pads, self.second, nn.ReLU(), self.third)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.path(x) + self.beside(x))


def described(*arguments: Any) -> list[str]:
    return list(describe_pictures(*arguments))


def network() -> tuple[nn.Module, list[nn.Conv2d]]:
    """The network, and its convolutions in the order of the file."""
    stem, blocks, taken = nn.Conv2d(3, 4, 7, 2), [], 4
    convolutions = [stem]
    for stage, (width, count) in enumerate([(2, 3), (2, 8), (3, 20), (3, 20), (4, 3), (4, 3)]):
        for number in range(count):
            block = Bottleneck(taken, width, 2 if stage and not number else 1, beside=not number)
            path = [block.first, block.second, block.third]
            beside = [] if number else [block.beside]
            convolutions += path + beside if stage == 3 else beside + path
            blocks.append(block)
            taken = 4 * width
    head = nn.Conv2d(taken, len(TAGS), 1, bias=False)
    pool = nn.Sequential(nn.ConstantPad2d((0, 1, 0, 1), -torch.inf), nn.MaxPool2d(3, 2))
    start = nn.Sequential(nn.ZeroPad2d((2, 3, 2, 3)), stem, nn.ReLU(), pool)
    end = nn.Sequential(head, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Sigmoid())
    return nn.Sequential(start, *blocks, end).eval(), [*convolutions, head]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """The folder with the file, and the network that it holds."""
    torch.manual_seed(3)
    folder, (model, convolutions) = tmp_path_factory.mktemp("deepdanbooru"), network()
    state: dict[str, object] = {"tags": TAGS}
    for number, convolution in enumerate(convolutions):
        nn.init.kaiming_normal_(convolution.weight)
        convolution.weight.data *= 0.75 if number < len(convolutions) - 1 else HEAD
        state[f"n_Conv_{number}.weight"] = convolution.weight.data
        if convolution.bias is not None:
            state[f"n_Conv_{number}.bias"] = convolution.bias.data
    torch.save(state, folder / FILE)
    return folder, model


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(3)
    for number, size in enumerate([(600, 400), (300, 512), (512, 512), (91, 90)]):
        colours = Image.fromarray(random.integers(0, 256, (3, 3, 3), dtype=np.uint8))
        colours.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def scores(whole: tuple[Path, nn.Module], pictures: list[Path]) -> np.ndarray:
    pixels = torch.from_numpy(np.stack([fitted(Image.open(path).convert("RGB")) for path in pictures]))
    with torch.no_grad():
        return whole[1](pixels.permute(0, 3, 1, 2)).numpy()


@pytest.mark.parametrize("threshold", [0.4, 0.5, 0.6])
def test_the_text_is_that_of_a1111_tag_by_tag(
    whole: tuple[Path, nn.Module], pictures: list[Path], scores: np.ndarray, threshold: float
) -> None:
    """By alphabet or by score, with spaces and backslashes, without ratings; a file or its folder is the model."""
    by_alphabet, by_score = [], []
    for row in scores:
        found = {tag: score for tag, score in zip(TAGS, row, strict=True) if score >= threshold and ":" not in tag}
        by_alphabet.append(", ".join(shown(tag) for tag in sorted(found)))
        by_score.append(", ".join(f"({shown(tag)}:{found[tag]:.3f})" for tag in sorted(found, key=lambda t: -found[t])))
    plain = tags(deepdanbooru=threshold, **A1111)
    assert described(iter(pictures), whole[0], plain, "cpu") == by_alphabet
    ranked = tags(deepdanbooru=threshold, **{**A1111, "order": "score", "ranks": True})
    assert described(pictures, whole[0] / FILE, ranked, "cpu") == by_score
    assert len(set(by_score)) == len(pictures)


def shown(tag: str) -> str:
    return re.sub(r"[\\()]", lambda found: "\\" + found[0], tag.replace("_", " "))


def test_filtered_tags_are_left_out_and_a_rating_stands_where_it_is_asked_for(
    whole: tuple[Path, nn.Module], pictures: list[Path], scores: np.ndarray
) -> None:
    all_tags = tags(deepdanbooru=0.0, **A1111, rating="last", undesired=["blue eyes", "tag_7"])
    (text,) = described(pictures[:1], whole[0], all_tags, "cpu")
    named = text.split(", ")
    assert set(map(shown, NAMES)) - set(named) == {"blue eyes", "tag 7"}
    assert named[-1] == RATINGS[scores[0, -3:].argmax()]


@pytest.mark.parametrize("size", [(300, 200), (200, 301), (700, 512), (64, 64)])
def test_a_picture_fills_a_square_with_its_outermost_pixels(size: tuple[int, int]) -> None:
    """Pillow takes them by a cubic kernel at the very edge: 9/8 of the last pixel, less 1/8 of the one before."""
    random = np.random.default_rng(1)
    image = Image.fromarray(random.integers(60, 190, (*size[::-1], 3), dtype=np.uint8))
    square = fitted(image) * 255
    wide = size[0] >= size[1]
    inner = (512, size[1] * 512 // size[0]) if wide else (size[0] * 512 // size[1], 512)
    resized = np.asarray(image.resize(inner, Image.Resampling.LANCZOS), float)
    if not wide:
        square, resized = square.transpose(1, 0, 2), resized.transpose(1, 0, 2)
    begin = 256 - len(resized) // 2
    end = begin + len(resized)
    assert np.abs(square[begin:end] - resized).max() < 1e-3
    for band, last, before in ((square[:begin], 0, 1), (square[end:], -1, -2)):
        edge = np.clip(resized[last] * 9 / 8 - resized[before] / 8, 0, 255)
        assert not band.size or np.abs(band - edge).max() < 1


@pytest.mark.parametrize("size", [(5000, 1), (1, 5000), (1, 1)])
def test_a_picture_of_a_pixels_height_or_width_fills_the_square_too(size: tuple[int, int]) -> None:
    assert (fitted(Image.new("RGB", size, (255, 51, 0))) == np.array([1, 51 / 255, 0], np.float32)).all()


def test_a_file_that_is_missing_or_no_deepdanbooru_is_refused(tmp_path: Path, whole: tuple[Path, nn.Module]) -> None:
    refuse_missing(whole[0])
    with pytest.raises(
        InputError, match=rf"holds no {FILE}. Next: download model-resnet_custom_v3.pt from the releases"
    ):
        refuse_missing(tmp_path)
    with pytest.raises(InputError, match="is missing"):
        refuse_missing(tmp_path / FILE)
    state = torch.load(whole[0] / FILE, weights_only=True)
    for changed, fault in (
        ({**state, "tags": TAGS[:-1]}, "has 59 tags, but its network gives 60 scores"),
        ({name: value for name, value in state.items() if name != "tags"}, "is not A1111's DeepDanbooru"),
        ({name: value for name, value in state.items() if name != "n_Conv_9.weight"}, "is not A1111's DeepDanbooru"),
    ):
        torch.save(changed, tmp_path / FILE)
        with pytest.raises(FormatError, match=fault):
            described([], tmp_path, tags(), "cpu")


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"tags": TAGS, "model": nn.Linear(1, 1)}, tmp_path / FILE)
    with pytest.raises(FormatError, match="cannot be opened safely|could run code"):
        described([], tmp_path, tags(), "cpu")
