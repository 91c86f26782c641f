"""The input of a training run: the cached latents of an image set, and its captions.

Batch i is a pure function of (seed, i), so a resumed run sees the same order, and no state must be saved for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from etude.base.conditioning import Conditioning
from etude.core.errors import InputError
from etude.core.files import read_json
from etude.core.randomness import generator
from etude.core.tensors import read_tensors

EVEN = 127 / 255  # a mask of this grey everywhere has the same effect as no mask


@dataclass(frozen=True)
class Images:
    """VAE moments of an image set: ``mean`` and ``logvar`` are N unscaled latents [4, h, w], sizes may differ.

    ``attention``: for each picture the grey [h, w], 0 to 1, of the mask beside it, or None; empty: no picture has one.
    """

    names: tuple[str, ...]
    mean: tuple[Tensor, ...]
    logvar: tuple[Tensor, ...]
    attention: tuple[Tensor | None, ...] = ()


@dataclass(frozen=True)
class Captions:
    """Captions of an image set, by image name: ``texts``, and their encodings ``conditioning`` [1, 77, d]."""

    texts: dict[str, str]
    conditioning: dict[str, Conditioning]
    empty: Conditioning  # of the text "", which guidance and caption dropout use


@dataclass(frozen=True)
class Pictures:
    """The prepared pictures of an image set: uint8 [H, W, 3] each, sizes may differ."""

    names: tuple[str, ...]
    pixels: tuple[Tensor, ...]


@dataclass(frozen=True)
class Batch:
    """B samples of one size: moments [B, 4, h, w], and captions if the method uses them.

    ``attention`` [B, 1, h, w], 0 to 1, if any of the pictures has a mask; pictures without a mask have the value EVEN.
    """

    names: tuple[str, ...]
    mean: Tensor
    logvar: Tensor
    texts: tuple[str, ...] = ()
    conditioning: Conditioning | None = None
    attention: Tensor | None = None


def latent_files(folder: Path | str) -> list[Path]:
    """The files of latents in a folder, by name; raises InputError if there are none."""
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise InputError(folder, "holds no latents", "run `dvc repro` so that the stage that fills it runs")
    return files


def load_images(folder: Path | str) -> Images:
    """Read ``data/<set>/latents``; raises InputError if it is empty."""
    files = latent_files(folder)
    moments = [read_tensors(file)[0] for file in files]
    return Images(
        tuple(file.stem for file in files),
        tuple(moment["mean"] for moment in moments),
        tuple(moment["logvar"] for moment in moments),
        tuple(moment.get("attention") for moment in moments),
    )


def load_pictures(folder: Path | str) -> Pictures:
    """Read ``data/<set>/prepared``; raises InputError if it is empty."""
    import numpy as np

    from etude.core.pictures import open_prepared

    files = sorted(Path(folder).glob("*.png"))
    if not files:
        raise InputError(folder, "holds no pictures", "run `dvc repro` so that *prepare* fills it")
    pixels = []
    for file in files:
        pixels.append(torch.from_numpy(np.array(open_prepared(file).convert("RGB"))))
    return Pictures(tuple(file.stem for file in files), tuple(pixels))


def load_captions(folder: Path | str) -> Captions:
    """Read ``data/<set>/texts``."""
    folder = Path(folder)
    index = read_json(folder / "index.json")
    entries = index["captions"]

    @cache
    def read(name: str) -> Conditioning:
        tensors = read_tensors(folder / f"{name}.safetensors")[0]
        pooled = tensors.get("pooled")
        return Conditioning(tensors["hidden"][None], None if pooled is None else pooled[None])

    return Captions(
        {name: entry["text"] for name, entry in entries.items()},
        {name: read(entry["file"]) for name, entry in entries.items()},
        read(index["empty"]),
    )


class Batches:
    """``batches(i)``: the i-th batch, of images of one size. Each image is used once before any is used twice."""

    def __init__(
        self, images: Images, captions: Captions | None, *, batch_size: int, seed: int, device: str = "cpu"
    ) -> None:
        self.batch_size, self.seed = batch_size, seed
        self.names = images.names
        self.mean = [tensor.to(device) for tensor in images.mean]
        self.logvar = [tensor.to(device) for tensor in images.logvar]
        self.attention = [None if mask is None else mask.to(device) for mask in images.attention]
        self.captions = captions
        missing = [name for name in images.names if captions and name not in captions.texts]
        if missing:
            raise InputError(", ".join(missing[:5]), "has no caption", "run `dvc repro` so that *caption* runs")
        if captions:  # many pictures may share a text: it is moved to the device only once
            moved = {id(text): text.to(device) for text in captions.conditioning.values()}
            self.conditioning = {name: moved[id(text)] for name, text in captions.conditioning.items()}
        sizes = sorted({tuple(tensor.shape) for tensor in self.mean})
        self.groups: list[list[int]] = [[] for _ in sizes]  # one batch holds pictures of one size
        for number, tensor in enumerate(self.mean):
            self.groups[sizes.index(tuple(tensor.shape))].append(number)
        self.counts = [-(-len(group) // batch_size) for group in self.groups]  # batches an epoch, rounded up
        self._order = lru_cache(maxsize=64)(self._shuffled)
        self._epoch = lru_cache(maxsize=2)(self._turns)

    def __call__(self, index: int) -> Batch:
        """Batch number ``index``, a pure function of ``index``."""
        chosen = self.members(index)
        names = tuple(self.names[i] for i in chosen)
        mean = torch.stack([self.mean[i] for i in chosen])
        logvar = torch.stack([self.logvar[i] for i in chosen])
        attention = self._attention(chosen)
        if not self.captions:
            return Batch(names, mean, logvar, attention=attention)
        conditioning = Conditioning.cat([self.conditioning[name] for name in names])
        texts = tuple(self.captions.texts[name] for name in names)
        return Batch(names, mean, logvar, texts, conditioning, attention)

    def _attention(self, chosen: Sequence[int]) -> Tensor | None:
        masks = [self.attention[i] for i in chosen] if self.attention else []
        if not any(mask is not None for mask in masks):
            return None
        even = torch.full_like(self.mean[chosen[0]][0], EVEN)
        return torch.stack([even if mask is None else mask for mask in masks])[:, None]

    def members(self, index: int) -> Sequence[int]:
        """Positions of the images in batch ``index``."""
        epoch, position = divmod(index, sum(self.counts))
        number, turn = self._epoch(epoch)[position]
        group = self.groups[number]
        first = (epoch * self.counts[number] + turn) * self.batch_size
        places = range(first, first + self.batch_size)
        return [group[self._order(len(group), f"group {number}", i // len(group))[i % len(group)]] for i in places]

    def _turns(self, epoch: int) -> list[tuple[int, int]]:
        """An epoch's batches in their order: the group of each, and the number of earlier batches of that group."""
        groups = [number for number, length in enumerate(self.counts) for _ in range(length)]
        earlier = [count() for _ in self.counts]
        return [(groups[i], next(earlier[groups[i]])) for i in self._shuffled(len(groups), "turns", epoch)]

    def _shuffled(self, length: int, *what: int | str) -> list[int]:
        permutation: list[int] = torch.randperm(length, generator=generator(self.seed, *what)).tolist()
        return permutation
