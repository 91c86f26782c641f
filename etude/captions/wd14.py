"""Tags by SmilingWolf's WD14 models, as their repositories contain them: ``model.onnx`` and ``selected_tags.csv``.

If ``model.onnx`` is missing, the network is read in timm's form: ``model.safetensors`` and ``config.json``.

Versions 1.4 to 3 differ only in the table and the network. Inputs are the BGR values (0 to 255) of pictures on a white
square of the model's size [n, side, side, 3]; the output is a score from 0 to 1 for each row of the table.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from etude.captions import onnx
from etude.captions.batches import describe_batches
from etude.captions.scores import Array, write_all
from etude.captions.tags import RATING, Tag, Tags
from etude.captions.wd14_timm import TimmNetwork
from etude.core.errors import BaseError, EtudeWarning, InputError

NETWORK, TABLE = "model.onnx", "selected_tags.csv"
WEIGHTS, CONFIG = "model.safetensors", "config.json"  # timm's form
# Danbooru's category numbers, and the number of ratings in these tables.
CATEGORIES = {"0": "general", "1": "artist", "3": "copyright", "4": "character", "5": "meta", "9": RATING}
FETCH = "fetch the whole repository of the model again with `etude base`"


def refuse_missing(model: Path) -> None:
    """Raise InputError if the package that runs the network is not installed, or a file of the model is missing."""
    by_timm = not (model / NETWORK).is_file() and (model / WEIGHTS).is_file()
    if by_timm and not find_spec("timm"):
        fault = f"the model of wd14 is {WEIGHTS}, which needs timm"
        action = f"put {NETWORK} in its folder, or run `pip install timm`, with a torchvision that fits your torch"
        raise InputError("params.yaml", fault, action)
    if not by_timm and not onnx.is_installed():
        raise InputError("params.yaml", "the captioner wd14 needs onnxruntime", onnx.INSTALL)
    for name in (CONFIG if by_timm else NETWORK, TABLE):
        if not (model / name).is_file():
            raise InputError(model, f"lacks {name}, which a WD14 model has", FETCH)


def recognises(model: Path) -> bool:
    """Whether the folder is that of a WD14 model."""
    return (model / TABLE).is_file()


def check_model(model: Path) -> None:
    """Raise EtudeError if the model in the folder cannot be opened as WD14."""
    refuse_missing(model)
    read_table(model / TABLE)
    _open(model, "cpu")


def describe_pictures(pictures: Iterable[Path], model: Path, settings: Tags, device: str) -> Iterator[str]:
    """The tags of each picture file, by the model in the folder ``model``. Raises EtudeError."""
    refuse_missing(model)
    table = read_table(model / TABLE)
    network = _open(model, device)
    thresholds = {"general": settings.general, "character": settings.character}

    def describe(images: list[Image.Image]) -> list[str]:
        scores = network.scores(np.stack([pixels(image, network.side, settings.resize) for image in images]))
        if scores.shape != (len(images), len(table)):
            fault = f"its network gives {scores.shape[-1]} scores, but its {TABLE} has {len(table)} tags"
            raise BaseError(model, fault, FETCH)
        return write_all(table, scores, thresholds, settings)

    yield from describe_batches(pictures, network.batch or settings.batch, describe)


def _open(model: Path, device: str) -> _Network | TimmNetwork:
    if (model / NETWORK).is_file():
        return _Network(model / NETWORK, device)
    return TimmNetwork(model, device, FETCH)


def read_table(path: Path) -> list[Tag]:
    """The tags of a model, in the order of its scores, from the columns ``name`` and ``category``. Raises BaseError."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BaseError(path, f"cannot be read ({error})", FETCH) from error
    if not rows or not {"name", "category"} <= set(rows[0]):
        raise BaseError(path, "has no tags, or lacks the column `name` or `category`", FETCH)
    return [Tag(row["name"], CATEGORIES.get(row["category"], row["category"])) for row in rows]


def pixels(image: Image.Image, side: int, resize: str) -> Array:
    """The BGR values of an RGB image in the middle of a white square: float32 [side, side, 3], 0 to 255."""
    longest = max(image.size)
    square = Image.new("RGB", (longest, longest), "white")
    square.paste(image, ((longest - image.width) // 2, (longest - image.height) // 2))
    if longest == side:
        resized = np.asarray(square)
    elif resize == "bicubic":
        resized = np.asarray(square.resize((side, side), Image.Resampling.BICUBIC))
    elif longest > side:
        resized = shrink_by_area(np.asarray(square), side)
    else:
        resized = np.asarray(square.resize((side, side), Image.Resampling.LANCZOS))
    return np.ascontiguousarray(resized[..., ::-1], dtype=np.float32)


def shrink_by_area(square: NDArray[np.uint8], side: int) -> Array:
    """The mean of what each new pixel covers: float32 [side, side, 3], whole numbers.

    Equal to OpenCV's ``INTER_AREA``, which kohya's script uses. Like OpenCV, it adds in float32, one pixel after the
    other, and rounds halves to even, but upwards if a side is halved.
    """
    scale = len(square) / side
    begins = np.arange(side) * scale
    covered = np.floor(begins).astype(int)[:, None] + np.arange(int(np.ceil(scale)) + 1)  # [side, pixels]
    overlap = np.minimum(covered + 1, (begins + scale)[:, None]) - np.maximum(covered, begins[:, None])
    shares = np.where(overlap < 1e-3, 0, np.minimum(overlap, 1)) / scale  # OpenCV also leaves out such small parts
    shares = shares.astype(np.float32)
    covered = np.minimum(covered, len(square) - 1)
    across = np.zeros((len(square), side, 3), np.float32)
    for each, share in zip(covered.T, shares.T, strict=True):
        across += square[:, each] * share[:, None]
    shrunk = np.zeros((side, side, 3), np.float32)
    for each, share in zip(covered.T, shares.T, strict=True):
        shrunk += across[each] * share[:, None, None]
    return np.floor(shrunk + 0.5) if scale == 2 else np.rint(shrunk)


class _Network:
    """The network, with the side of its pictures, and its batch size if it is fixed, otherwise 0."""

    def __init__(self, path: Path, device: str) -> None:
        import torch

        threads = torch.get_num_threads()  # the parameter `threads`
        self._session = onnx.open_network(path, FETCH, on_gpu=_on_gpu(device), threads=threads)
        taken = self._session.get_inputs()[0]
        batch, height, width, *colours = taken.shape
        if not isinstance(height, int) or height != width or colours != [3]:
            fault = f"its input has the shape {taken.shape}; only [n, side, side, 3], as in WD14 models, is supported"
            raise BaseError(path, fault, "set `caption.captioners.wd14` to the folder of a WD14 model")
        self._path, self._input, self._output = path, taken.name, self._session.get_outputs()[0].name
        self.side: int = height
        self.batch = batch if isinstance(batch, int) else 0

    def scores(self, batch: Array) -> Array:
        """The scores [n, tags] of the pictures [n, side, side, 3]; a fixed batch is filled up with black ones."""
        missing = max(self.batch - len(batch), 0)
        whole = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), np.float32)])
        scores: Any = self._session.run([self._output], {self._input: whole})[0][: len(batch)]
        if not ((scores >= 0) & (scores <= 1)).all():
            raise BaseError(self._path, "its network gives scores that are not between 0 and 1", FETCH)
        return np.asarray(scores)


def _on_gpu(device: str) -> bool:
    if not device.startswith("cuda"):
        return False
    if not onnx.can_use_gpu():
        told = "wd14 runs on the CPU: the installed onnxruntime cannot use CUDA; install onnxruntime-gpu"
        warnings.warn(told, EtudeWarning, 2)
        return False
    return True
