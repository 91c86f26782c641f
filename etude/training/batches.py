"""The input of a training run: the cached latents of an image set, and its captions.

Both are read from shards when a batch needs them, by a thread that is a few batches ahead; so memory does not depend on
the number of pictures, and the device holds one batch.

Batch i is a pure function of (seed, i), so a resumed run sees the same order, and no state must be saved for it.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from math import gcd
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etude.base.conditioning import Conditioning
from etude.core.errors import InputError
from etude.core.files import read_json
from etude.core.prepared import is_copy
from etude.core.randomness import generator, mix
from etude.core.shards import CAPTIONS, REPEATS, SIZES, Shards, text_entry
from etude.training.sets import Place

AHEAD = 2  # batches that are made before they are needed


@dataclass(frozen=True)
class Images:
    """VAE moments of an image set: ``mean`` and ``logvar`` are N unscaled latents [4, h, w], sizes may differ.

    ``attention``: for each picture the grey [h, w], 0 to 1, of the mask beside it, or None; empty: no picture has one.
    ``cells``: for each view of a picture the cells [h, w] that it fills, 1 or 0; empty: these are no views.
    ``repeats``: how often each picture occurs in an epoch, relative to the others; empty: all equally often.
    """

    names: tuple[str, ...]
    mean: Sequence[Tensor]
    logvar: Sequence[Tensor]
    attention: Sequence[Tensor | None] = ()
    cells: Sequence[Tensor] = ()
    repeats: Sequence[int] = ()
    sizes: Sequence[Tensor] = ()  # [6] for each picture, as `predict` takes them; empty: those of the latents


@dataclass(frozen=True)
class Captions:
    """Captions of an image set, by image name: ``texts``, and their encodings ``conditioning`` [1, 77, d]."""

    texts: Mapping[str, str]
    conditioning: Mapping[str, Conditioning]
    empty: Conditioning  # of the text "", which guidance and caption dropout use
    variants: tuple[Captions, ...] = ()  # the same captions in other forms: a batch takes one for each picture

    @property
    def forms(self) -> tuple[Captions, ...]:
        """The forms that batches choose from: the variants, or the captions themselves if there are none."""
        return self.variants or (self,)


@dataclass(frozen=True)
class Pictures:
    """The prepared pictures of an image set, without copies of them: uint8 [H, W, 3] each, sizes may differ."""

    names: tuple[str, ...]
    pixels: Sequence[Tensor]


@dataclass(frozen=True)
class Batch:
    """B samples of one size: moments [B, 4, h, w], and captions if the method uses them.

    ``attention`` [B, 1, h, w], 0 to 1, if any of the pictures has a mask; `Batches` fills it for those without one.
    ``cells`` [B, 1, h, w], 1 where a view has its picture.
    """

    names: tuple[str, ...]
    mean: Tensor
    logvar: Tensor
    texts: tuple[str, ...] = ()
    conditioning: Conditioning | None = None
    attention: Tensor | None = None
    cells: Tensor | None = None
    sizes: Tensor | None = None  # [B, 6]

    def pinned(self) -> Batch:
        """A copy in pinned memory, which a GPU reads while the host continues."""
        return self._map(Tensor.pin_memory)

    def to(self, device: str) -> Batch:
        """The batch on another device; the host does not wait for the copy of a pinned batch."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with the results of a function of each tensor."""
        masks = {"attention": self.attention, "cells": self.cells}
        tensors = {"mean": self.mean, "logvar": self.logvar, **masks, "sizes": self.sizes}
        results: dict[str, Any] = {name: function(tensor) for name, tensor in tensors.items() if tensor is not None}
        return replace(self, **results, conditioning=self.conditioning and self.conditioning.map(function))


def read_repeats(names: Sequence[str], *places: Place) -> Sequence[int]:
    """The repeats of the pictures ``names``, which are in ``places``; empty if each counts once.

    Raises InputError if no picture is left.
    """
    found: dict[str, int] = {}
    for place in places:
        file = place.folder / REPEATS
        own: dict[str, int] = read_json(file) if file.exists() else {}
        found |= {place.prefix + name: number for name, number in own.items()}
    counts = array("q")
    for name in names:
        factor = next(place.repeats for place in reversed(places) if name.startswith(place.prefix))
        counts.append(found.get(name, 1) * factor)
    if counts and not any(counts):
        fault = "no picture counts: the number in the name of each picture's folder is 0, such as `0_sks dog`"
        raise InputError(places[0].folder, fault, "give a folder of the source another number, such as `1_sks dog`")
    return counts if len(set(counts)) > 1 else ()


def load_images(folder: Path | str, *further: Place, repeats: int = 1, sizes: bool = False) -> Images:
    """Open ``data/<set>/latents``, whose pictures count ``repeats`` times each, and the latents of further sets.

    With ``sizes``, the result has the original sizes of pictures, if *encode* saved them.
    Raises InputError if there are none, and FormatError if a shard is damaged.
    """
    places = [Place("", Path(folder), repeats), *further]
    shards = Shards(*(place[:2] for place in places))
    if not shards.names:
        raise InputError(folder, "holds no latents", "run `dvc repro` so that *encode* fills it")
    moments, masks = (shards.column("mean"), shards.column("logvar")), shards.optional("attention")
    told = shards.optional(SIZES) if sizes else ()
    counts = read_repeats(shards.names, *places)
    return Images(shards.names, *moments, masks, repeats=counts, sizes=told if told and told.has(0) else ())


def load_pictures(folder: Path | str) -> Pictures:
    """Read ``data/<set>/prepared`` without copies; raises InputError if it is empty."""
    files = sorted(Path(folder).glob("*.png"))
    images = read_json(Path(folder, "images.json"))["images"] if files else {}
    files = [file for file in files if not is_copy(images[file.stem])]
    if not files:
        raise InputError(folder, "holds no pictures", "run `dvc repro` so that *prepare* fills it")
    return Pictures(tuple(file.stem for file in files), _Opened(files))


class _Opened(Sequence[Tensor]):
    """Pictures whose files are opened at each access."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, position: Any) -> Any:
        import numpy as np

        from etude.core.pictures import open_prepared

        return torch.from_numpy(np.array(open_prepared(self._files[position]).convert("RGB")))


def load_captions(folder: Path | str, *further: Place) -> Captions:
    """Open ``data/<set>/texts``, and those of further sets.

    Raises InputError if a caption is not encoded, FormatError if a shard is damaged.
    """
    places = [Place("", Path(folder)), *further]
    shards = Shards(*(("", place.folder) for place in places))
    return captions_of(shards, read_texts(*places))


def read_texts(*places: Place) -> dict[str, str]:
    """The captions of the pictures in ``places``."""
    texts: dict[str, str] = {}
    for prefix, folder, _ in places:
        texts |= {prefix + name: text for name, text in read_json(folder / CAPTIONS).items()}
    return texts


def captions_of(shards: Shards, texts: Mapping[str, str]) -> Captions:
    """The captions ``texts``, whose encodings are entries of ``shards``."""
    states = States(shards, texts)
    return Captions(texts, states, states.read(""))


class States(Mapping[str, Conditioning]):
    """The encodings [1, 77, d] of captions, by image name; each is read from its shard at each access."""

    def __init__(self, shards: Shards, texts: Mapping[str, str]) -> None:
        self._texts, self._shards = texts, shards
        self._hidden, self._pooled = shards.column("hidden"), shards.optional("pooled")
        for text in {"", *texts.values()}:
            self._position(text)

    def __len__(self) -> int:
        return len(self._texts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __getitem__(self, name: str) -> Conditioning:
        return self.read(self._texts[name])

    def read(self, text: str) -> Conditioning:
        """The encoding of a text."""
        position = self._position(text)
        pooled = self._pooled[position]
        return Conditioning(self._hidden[position][None], None if pooled is None else pooled[None])

    def _position(self, text: str) -> int:
        position = self._shards.find(text_entry(text))
        if position is None:
            raise InputError(f"the text `{text}`", "is not encoded", "run `dvc repro` so that *encode* runs")
        return position


class Batches:
    """``batches(i)``: the i-th batch, of images of one size.

    Each image is used once before any is used twice; with repeats, each is used that often before any is used more.

    A thread makes the batches that this process needs next. They have the captions' encodings only if ``encoded``.
    ``unmasked`` is the grey of the mask that a picture without a mask gets.
    """

    def __init__(
        self,
        images: Images,
        captions: Captions | None,
        *,
        batch_size: int,
        seed: int,
        device: str = "cpu",
        encoded: bool = True,
        unmasked: float = 1.0,
    ) -> None:
        self.images, self.captions, self.encoded, self.unmasked = images, captions, encoded, unmasked
        self.batch_size, self.seed, self.device = batch_size, seed, device
        missing = [name for name in images.names if captions and name not in captions.texts]
        if missing:
            raise InputError(", ".join(missing[:5]), "has no caption", "run `dvc repro` so that *caption* runs")
        self.groups = _groups(images)
        self.counts = [-(-len(group) // batch_size) for group in self.groups]  # batches in an epoch, rounded up
        # a batch may contain pictures from two epochs of its group, and so may a batch that is made ahead
        self._order = lru_cache(maxsize=3 * len(self.groups))(self._shuffled)
        self._epoch = lru_cache(maxsize=2)(self._turns)
        self._thread = ThreadPoolExecutor(1, "batches")
        self._coming: dict[int, Future[Batch]] = {}

    def __call__(self, index: int) -> Batch:
        """Batch number ``index`` on the device, a pure function of ``index``."""
        future = self._coming.pop(index, None)
        batch = future.result() if future else self._made(index)
        stride = int(os.environ.get("WORLD_SIZE", 1))  # the other batches are for other processes
        following = [index + stride * (number + 1) for number in range(AHEAD)]
        for other in set(self._coming) - set(following):
            self._coming.pop(other).cancel()
        for other in following:
            if other not in self._coming:
                self._coming[other] = self._thread.submit(self._made, other)
        return batch.to(self.device)

    def _made(self, index: int) -> Batch:
        batch = self._read(index)
        return batch.pinned() if self.device.startswith("cuda") else batch

    def _read(self, index: int) -> Batch:
        chosen, images = self.members(index), self.images
        names = tuple(images.names[i] for i in chosen)
        mean = torch.stack([images.mean[i] for i in chosen])
        logvar = torch.stack([images.logvar[i] for i in chosen])
        sizes = torch.stack([images.sizes[i] for i in chosen]) if images.sizes else None
        beside = self._attention(chosen, mean), self._cells(chosen, mean), sizes
        if not self.captions:
            return Batch(names, mean, logvar, (), None, *beside)
        forms = [self._form(index, place) for place in range(len(names))]
        texts = tuple(form.texts[name] for form, name in zip(forms, names, strict=True))
        states = (form.conditioning[name] for form, name in zip(forms, names, strict=True))
        conditioning = Conditioning.cat(list(states)) if self.encoded else None
        return Batch(names, mean, logvar, texts, conditioning, *beside)

    def _form(self, index: int, place: int) -> Captions:
        """The form in which batch ``index`` takes the caption of its picture at ``place``."""
        assert self.captions
        forms = self.captions.forms
        return forms[mix(self.seed, "form", index, place) % len(forms)]

    def _attention(self, chosen: Sequence[int], mean: Tensor) -> Tensor | None:
        masks = [self.images.attention[i] for i in chosen] if self.images.attention else []
        if not any(mask is not None for mask in masks):
            return None
        even = torch.full_like(mean[0][0], self.unmasked)
        return torch.stack([even if mask is None else mask.to(even) for mask in masks])[:, None]

    def _cells(self, chosen: Sequence[int], mean: Tensor) -> Tensor | None:
        if not self.images.cells:
            return None
        return torch.stack([self.images.cells[i] for i in chosen])[:, None].to(mean)

    def members(self, index: int) -> Sequence[int]:
        """Positions of the images in batch ``index``."""
        epoch, position = divmod(index, sum(self.counts))
        groups, turns = self._epoch(epoch)
        number, turn = groups[position], turns[position]
        group = self.groups[number]
        first = (epoch * self.counts[number] + turn) * self.batch_size
        places = range(first, first + self.batch_size)
        orders = ((i % len(group), self._order(len(group), f"group {number}", i // len(group))) for i in places)
        return [group[order[place]] for place, order in orders]

    def _turns(self, epoch: int) -> tuple[array[int], array[int]]:
        """An epoch's batches in their order: the group of each, and the number of earlier batches of that group."""
        sorted_groups = array("q", (number for number, length in enumerate(self.counts) for _ in range(length)))
        groups, turns, earlier = array("q"), array("q"), [0] * len(self.counts)
        for place in self._shuffled(len(sorted_groups), "turns", epoch):
            group = sorted_groups[place]
            groups.append(group)
            turns.append(earlier[group])
            earlier[group] += 1
        return groups, turns

    def _shuffled(self, length: int, *what: int | str) -> array[int]:
        return array("q", torch.randperm(length, generator=generator(self.seed, *what)).tolist())


def _groups(images: Images) -> list[array[int]]:
    """The positions of the images of each size: one batch holds images of one size.

    A position occurs as often as its image is repeated. Only the ratios of repeats count: equal ones have no effect.
    """
    groups: dict[tuple[int, ...], array[int]] = {}
    common = gcd(*images.repeats) or 1
    for position, mean in enumerate(images.mean):
        repeats = images.repeats[position] // common if images.repeats else 1
        if repeats:
            groups.setdefault(tuple(mean.shape), array("q")).extend([position] * repeats)
    return [groups[size] for size in sorted(groups)]
