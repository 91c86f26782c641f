"""CLIP features of pictures and texts, cached in ``.cache/features``; their keys contain pixels and CLIP's weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from etude.core.code import versions
from etude.core.errors import BaseError
from etude.core.files import atomic_path, sha256_file, sha256_tree
from etude.core.store import Part, Store, key
from etude.evaluation.metrics import Array, unit
from etude.rendering.pixels import open_picture, pixel_digest

if TYPE_CHECKING:
    from PIL import Image

    from etude.base.clip import Clip

ROOM = Path(__file__)
MODEL = ROOM.parents[1] / "base" / "clip.py"
LIBRARIES = ("pillow", "tokenizers", "torch", "transformers")


class ClipFeatures:
    """A CLIP folder: weights, tokenizer, preprocessor. It is read when the first feature is needed that is not cached.

    The batch size is 1: in a larger batch the last bits of a feature would depend on the other items, and therefore on
    what is already cached.
    """

    def __init__(self, folder: Path, *, device: str, threads: int, root: Path | str = ".cache") -> None:
        if not (folder / "config.json").exists():
            raise BaseError(
                folder, "is no CLIP folder: config.json is missing", "set `evaluate.clip` in params.yaml to one"
            )
        self.folder, self.device, self.threads = folder, device, threads
        self.store, self.new = Store("features", root), 0

    def pictures(self, paths: Sequence[Path]) -> Array:
        """Unit features [n, d] of picture files."""
        return self._all([self._picture(path) for path in paths])

    def texts(self, texts: Sequence[str]) -> Array:
        """Unit features [n, d] of texts."""
        return self._all([self._kept(("text", text), partial(self._read, text)) for text in texts])

    def forget(self) -> None:
        """Free the memory of the model; the next feature that is not cached reads it again."""
        self.__dict__.pop("_model", None)

    def _all(self, features: Sequence[Array]) -> Array:
        return unit(np.stack(features).astype(np.float64))

    def _picture(self, path: Path) -> Array:
        picture = open_picture(path)
        return self._kept(("picture", pixel_digest(picture)), partial(self._see, picture))

    def _kept(self, what: tuple[Part, ...], make: Callable[[], Array]) -> Array:
        place = self.store.path(key(self._digest, *what), ".npy")
        if not place.exists():
            self.new += 1
            with atomic_path(place) as temporary:
                np.save(temporary, make())
        return np.asarray(np.load(place, allow_pickle=False))

    @cached_property
    def _digest(self) -> str:
        code = [sha256_file(ROOM), sha256_file(MODEL)]
        libraries = versions(*LIBRARIES)
        return key(sha256_tree(self.folder), code, libraries, self.device, self.threads)

    @cached_property
    def _model(self) -> Clip:
        from etude.base.clip import Clip

        return Clip(self.folder, self.device, "name another in `evaluate.clip` of params.yaml")

    def _see(self, picture: Image.Image) -> Array:
        return self._model.see(picture).numpy()

    def _read(self, text: str) -> Array:
        return self._model.read([text])[0].numpy()
