"""Draw the requested pictures that are not in the cache yet.

A request is drawn as one batch. Each picture is one entry of the cache, and its key contains the whole request: a
cached picture never depends on the other pictures of a run, and for a new checkpoint only its own pictures are drawn.
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
from etude.core.memory import during
from etude.core.placeholder import fill
from etude.core.store import Part, Store, key
from etude.diffusion.sample import generate
from etude.rendering.candidates import Candidate
from etude.rendering.renderer import Renderer

if TYPE_CHECKING:
    from etude.base.base import Base


@dataclass(frozen=True)
class Request:
    """One prompt and its seeds, drawn as one batch with one candidate."""

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
    """A request in normal form, so that equal pictures have equal keys: ``name`` filled in, seeds sorted.

    A request of the base has no ``settings``, because they do not change it: it is drawn once for all settings.
    """
    worded = sampling.model_copy(update={"negative": fill(sampling.negative, name)})
    own = () if candidate.path is None else tuple(sorted(settings.items()))
    return Request(candidate, fill(prompt, name), tuple(sorted(set(seeds))), worded, own, size)


Track = Callable[[Sequence[Request]], Iterator[Request]]


@dataclass(frozen=True)
class Drawn:
    """The picture files of each request, in the order of its seeds, and the number of newly drawn pictures."""

    paths: dict[Request, tuple[Path, ...]]
    new: int

    def of(self, request: Request, seed: int) -> Path:
        """The file of one picture."""
        return self.paths[request][request.seeds.index(seed)]


def draw(renderer: Renderer, requests: Sequence[Request], track: Track = iter) -> Drawn:
    """Pictures for every request; ``track`` gets the requests that must be drawn, and shows progress.

    Changing the artifact is slowest, then changing its settings: all requests of one artifact are drawn in sequence.
    """
    store = Store("images")
    paths = {request: _places(renderer, store, request) for request in dict.fromkeys(requests)}
    missing = [request for request, places in paths.items() if not all(map(Path.exists, places))]
    order = sorted(missing, key=lambda request: (request.candidate.step or 0, request.candidate.name, request.settings))
    groups = groupby(track(order), key=lambda request: (request.candidate, request.settings))
    for (candidate, settings), group in groups:
        with renderer.applied(candidate, dict(settings)) as base:
            for request in group:
                with during(f"drawing {len(request.seeds)} pictures at once"):
                    pictures = _generate(base, request)
                for place, picture in zip(paths[request], pictures, strict=True):
                    with atomic_path(place) as temporary:
                        Image.fromarray(picture).save(temporary)
    return Drawn(paths, sum(len(request.seeds) for request in missing))


def _places(renderer: Renderer, store: Store, request: Request) -> tuple[Path, ...]:
    what: list[Part] = [request.prompt, list(request.seeds), request.sampling.model_dump(), list(request.size or ())]
    group = renderer.key(request.candidate, dict(request.settings), what)
    return tuple(store.path(key(group, seed), ".png") for seed in request.seeds)


def _generate(base: Base, request: Request) -> NDArray[np.uint8]:
    """Pictures [B, height, width, 3], one for each seed."""
    width, height = request.size or (base.resolution, base.resolution)
    prompts = [request.prompt] * len(request.seeds)
    pictures = generate(base, prompts, seeds=request.seeds, width=width, height=height, **request.sampling.model_dump())
    return np.asarray(pictures.cpu().numpy())
