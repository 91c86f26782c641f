"""Tags by DeepDanbooru (Kim, 2019) as A1111 loads it: ``model-resnet_custom_v3.pt``, with tags and weights.

The network is a residual one (He et al., 2016). Its normalisation is merged into the convolutions of the file, which
are numbered in the order in which they run. The texts are those of A1111: it resizes pictures to 512 × 512 too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from etude.captions.batches import describe_batches
from etude.captions.scores import Array, write_all
from etude.captions.tags import RATING, Tag, Tags
from etude.core.errors import FormatError, InputError

if TYPE_CHECKING:
    from torch import Tensor

FILE = "model-resnet_custom_v3.pt"
FETCH = f"download {FILE} from the releases of AUTOMATIC1111/TorchDeepDanbooru"
SIDE = 512  # pixels
STAGES = (3, 8, 20, 20, 3, 3)  # blocks of three convolutions; the first of a stage has one more, as its skip
NUMBERED_LAST = 3  # the stage whose skip convolution is numbered after the three others


def refuse_missing(model: Path) -> None:
    """Raise InputError if the file does not exist; ``model`` is that file, or the folder that contains it."""
    if not _file(model).is_file():
        raise InputError(model, f"holds no {FILE}" if model.is_dir() else "is missing", FETCH)


def recognises(model: Path) -> bool:
    """Whether the folder is that of a DeepDanbooru."""
    return (model / FILE).is_file()


def check_model(model: Path) -> None:
    """Raise EtudeError if ``model`` cannot be opened as DeepDanbooru."""
    refuse_missing(model)
    _read(_file(model))


def describe_pictures(pictures: Iterable[Path], model: Path, settings: Tags, device: str) -> Iterator[str]:
    """The tags of each picture file, by ``model``, a file or its folder. Raises EtudeError."""
    import torch

    refuse_missing(model)
    table, weights = _read(_file(model))
    weights = {name: tensor.float().to(device) for name, tensor in weights.items()}

    def describe(images: list[Image.Image]) -> list[str]:
        pixels = torch.from_numpy(np.stack([fitted(image) for image in images])).to(device)
        with torch.no_grad():
            scores = run(weights, pixels).cpu().numpy()
        return write_all(table, scores, {"general": settings.deepdanbooru}, settings)

    yield from describe_batches(pictures, settings.batch, describe)


def _file(model: Path) -> Path:
    return model / FILE if model.is_dir() else model


def _read(path: Path) -> tuple[list[Tag], dict[str, Any]]:
    """The tags, and the weights by their names. Raises FormatError."""
    from etude.core.pickles import read_pickle

    weights = read_pickle(path)
    tags = weights.pop("tags", None)
    last = sum(STAGES) * 3 + len(STAGES) + 1
    missing = {f"n_Conv_{number}.weight" for number in range(last + 1)} - set(weights)
    if not isinstance(tags, list) or missing:
        raise FormatError(path, "is not A1111's DeepDanbooru: `tags`, or weights of convolutions, are missing", FETCH)
    scores = len(weights[f"n_Conv_{last}.weight"])
    if len(tags) != scores:
        raise FormatError(path, f"has {len(tags)} tags, but its network gives {scores} scores", FETCH)
    return [Tag(str(tag), RATING if str(tag).startswith("rating:") else "general") for tag in tags], weights


def fitted(image: Image.Image) -> Array:
    """The RGB values of an image within a square, from 0 to 1: float32 [512, 512, 3].

    A1111 repeats the outermost pixels to fill the square. Pillow does this if the resized box has no width or height.
    """
    longest = max(image.size)
    width, height = (side * SIDE // longest for side in image.size)
    resized = image.resize((max(width, 1), max(height, 1)), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (SIDE, SIDE))
    left, top = SIDE // 2 - width // 2, SIDE // 2 - height // 2
    square.paste(resized, (left, top))
    if top > 0:
        square.paste(resized.resize((SIDE, top), box=(0, 0, width, 0)), (0, 0))
        square.paste(resized.resize((SIDE, top), box=(0, height, width, height)), (0, top + height))
    if left > 0:
        square.paste(resized.resize((left, SIDE), box=(0, 0, 0, height)), (0, 0))
        square.paste(resized.resize((left, SIDE), box=(width, 0, width, height)), (left + width, 0))
    return np.asarray(square, np.float32) / np.float32(255)


def run(weights: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """The score of each tag [n, tags], from RGB values from 0 to 1 [n, 512, 512, 3]."""
    from torch.nn.functional import conv2d, max_pool2d, pad

    def conv(number: int, x: Tensor, stride: int = 1) -> Tensor:
        kernel, bias = weights[f"n_Conv_{number}.weight"], weights.get(f"n_Conv_{number}.bias")
        around = kernel.shape[-1] - stride  # as in TensorFlow: if padding is odd, the additional pixel is at the end
        before = max(around, 0) // 2
        x = pad(x, 2 * [before, max(around, 0) - before])
        return conv2d(x, kernel, bias, stride)

    x = conv(0, pixels.permute(0, 3, 1, 2), 2).relu()
    x = max_pool2d(pad(x, (0, 1, 0, 1), value=float("-inf")), 3, 2)
    for beside, (first, second, third), stride in _blocks():
        y = conv(third, conv(second, conv(first, x).relu(), stride).relu())
        x = (y + (x if beside is None else conv(beside, x, stride))).relu()
    return conv(sum(STAGES) * 3 + len(STAGES) + 1, x).mean((2, 3)).sigmoid()


def _blocks() -> Iterator[tuple[int | None, tuple[int, int, int], int]]:
    """For each block: the number of its skip convolution or None, the numbers of its three others, and the stride."""
    number = 1
    for stage, blocks in enumerate(STAGES):
        for block in range(blocks):
            beside, first = None, number
            if block == 0:
                beside, first = (number + 3, number) if stage == NUMBERED_LAST else (number, number + 1)
            yield beside, (first, first + 1, first + 2), 2 if block == 0 and stage else 1
            number += 3 if beside is None else 4
