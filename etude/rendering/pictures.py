"""Draw what is asked for and not yet kept.

A request is drawn as one batch and kept as one entry a picture, under a key of the whole request: a kept picture never
depends on what else was drawn in the same run, and a new checkpoint draws only its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from etude.base.settings import Sampling
from etude.core.files import atomic_path
from etude.core.placeholder import fill
from etude.core.store import Part, Store, key
from etude.diffusion.sample import generate
from etude.rendering.candidates import Candidate
from etude.rendering.renderer import Renderer

if TYPE_CHECKING:
    from etude.base.base import Base


@dataclass(frozen=True)
class Request:
    """One prompt and its seeds, drawn together by one candidate."""

    candidate: Candidate
    prompt: str  # with the name filled in
    seeds: tuple[int, ...]
    sampling: Sampling
    settings: tuple[tuple[str, float], ...] = ()  # of the method's `axes`, sorted by name
    size: tuple[int, int] | None = None  # (width, height) in pixels; None: the resolution of the base


def ask(
    candidate: Candidate,
    prompt: str,
    name: str,
    seeds: Sequence[int],
    sampling: Sampling,
    settings: Mapping[str, float],
    size: tuple[int, int] | None = None,
) -> Request:
    """A request in its one form, so that equal pictures are asked for equally: ``name`` filled in, seeds in order.

    The base has no ``settings``: it is drawn once for all of them.
    """
    worded = sampling.model_copy(update={"negative": fill(sampling.negative, name)})
    own = () if candidate.path is None else tuple(sorted(settings.items()))
    return Request(candidate, fill(prompt, name), tuple(sorted(set(seeds))), worded, own, size)


Track = Callable[[Sequence[Request]], Iterator[Request]]


@dataclass(frozen=True)
class Drawn:
    """Where the pictures of each request are, in the order of its seeds, and how many had to be drawn."""

    paths: dict[Request, tuple[Path, ...]]
    new: int

    def of(self, request: Request, seed: int) -> Path:
        """One picture."""
        return self.paths[request][request.seeds.index(seed)]


def draw(renderer: Renderer, requests: Sequence[Request], track: Track = iter) -> Drawn:
    """Pictures for every request; ``track`` is given those that must be drawn, and shows how they go by.

    Artifacts are the dearest to change, then their settings: requests of one artifact are drawn one after another.
    """
    store = Store("images")
    paths = {request: _places(renderer, store, request) for request in dict.fromkeys(requests)}
    missing = [request for request, places in paths.items() if not all(map(Path.exists, places))]
    order = sorted(missing, key=lambda request: (request.candidate.step or 0, request.candidate.name, request.settings))
    groups = groupby(track(order), key=lambda request: (request.candidate, request.settings))
    for (candidate, settings), group in groups:
        with renderer.applied(candidate, dict(settings)) as base:
            for request in group:
                for place, picture in zip(paths[request], _generate(base, request), strict=True):
                    with atomic_path(place) as temporary:
                        Image.fromarray(picture).save(temporary)
    return Drawn(paths, sum(len(request.seeds) for request in missing))


def _places(renderer: Renderer, store: Store, request: Request) -> tuple[Path, ...]:
    what: list[Part] = [request.prompt, list(request.seeds), request.sampling.model_dump(), list(request.size or ())]
    group = renderer.key(request.candidate, dict(request.settings), what)
    return tuple(store.path(key(group, seed), ".png") for seed in request.seeds)


def _generate(base: Base, request: Request) -> NDArray[np.uint8]:
    """Pictures [B, height, width, 3], one a seed."""
    width, height = request.size or (base.resolution, base.resolution)
    prompts = [request.prompt] * len(request.seeds)
    drawn = generate(base, prompts, seeds=request.seeds, width=width, height=height, **request.sampling.model_dump())
    return np.asarray(drawn.cpu().numpy())
