"""The renderer: a base, a method and a device to draw with, and the digest of everything that a picture depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path

from etude.base.base import DTYPES, Base
from etude.base.digest import PARTS, part_digest
from etude.base.loading import choose_device, load_base
from etude.base.settings import PLAIN, Text
from etude.core import artifact as artifacts
from etude.core.code import code_digests, versions
from etude.core.errors import FormatError
from etude.core.files import sha256_file
from etude.core.method import load_method
from etude.core.mixins import OwnBase
from etude.core.params import pick
from etude.core.randomness import make_deterministic
from etude.core.store import Part, key
from etude.rendering.candidates import Candidate

DRAWING = ("etude/base", "etude/core", "etude/diffusion", "etude/rendering")  # the code that draws
APPLYING = "etude/training"  # further code that a method's `apply` may use, in addition to the method's own
LIBRARIES = ("diffusers", "peft", "tokenizers", "torch", "transformers")


class Renderer:
    """Draws with a base and a method; the base is loaded when the first picture is drawn, not before."""

    def __init__(
        self, base: Path, method: str, *, device: str, precision: str, threads: int, reading: Text = PLAIN
    ) -> None:
        self.path, self.method, self.precision, self.threads, self.reading = base, method, precision, threads, reading
        self.device = choose_device(device).type

    @cached_property
    def base(self) -> Base:
        """The loaded base, shared by everything that is drawn."""
        return load_base(self.path, device=self.device, dtype=DTYPES[self.precision], reading=self.reading)

    @contextmanager
    def applied(self, candidate: Candidate, settings: Mapping[str, float]) -> Iterator[Base]:
        """The base, changed by ``candidate`` with ``settings`` of the method's ``axes``; undone on exit."""
        if candidate.path is None:
            yield self.base
            return
        artifact = artifacts.load(candidate.path)
        if artifact.method != self.method:
            raise FormatError(candidate.path, f"was made by {artifact.method}, not {self.method}", "run `dvc repro`")
        with load_method(self.method).apply(artifact, self.base, **settings) as changed:
            yield changed

    def key(self, candidate: Candidate, settings: Mapping[str, float], *parts: Part) -> str:
        """The cache key of a result of ``candidate``, from weights, settings, code, libraries and device."""
        if candidate.path is None:
            return key(self._ground, *parts)  # neither method nor settings change the base: all methods share its rows
        return key(self._ground, self._apply, self._digest(candidate.path), dict(settings), *parts)

    @cached_property
    def _digest(self) -> Callable[[Path], str]:
        """The digest of an artifact file, computed once: some have gigabytes, and each prompt needs the digest."""
        return cache(sha256_file)

    @cached_property
    def _ground(self) -> str:
        weights = [part_digest(self.path, part) for part in PARTS]
        libraries = versions(*LIBRARIES)
        how: list[Part] = [self.device, self.precision, self.threads, self.reading.model_dump()]
        return key(weights, code_digests(*DRAWING), libraries, how)

    @cached_property
    def _apply(self) -> str:
        return key(code_digests(APPLYING, f"pipelines/{self.method}"))


def open_renderer(
    method: str, *, base: str, device: str, precision: str, threads: int, reading: Text = PLAIN
) -> Renderer:
    """A method's renderer, with the method's own base if it has one, otherwise with ``base``.

    It makes torch deterministic: from then on, equal inputs give equal results.
    """
    make_deterministic(threads)
    if issubclass(load_method(method).Params, OwnBase):
        base = pick(Path("pipelines", method, "params.yaml"), OwnBase).base
    return Renderer(Path(base), method, device=device, precision=precision, threads=threads, reading=reading)
