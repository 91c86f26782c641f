"""CLIP features of pictures and texts, kept in ``.cache/features`` by pixels and by the weights that saw them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from etude.core.errors import BaseError
from etude.core.files import atomic_path, sha256_file, sha256_tree
from etude.core.store import Part, Store, key
from etude.evaluation.metrics import Array, unit
from etude.rendering.pixels import open_picture, pixel_digest

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

ROOM = Path(__file__)
LIBRARIES = ("pillow", "torch", "transformers")


class Clip:
    """A CLIP folder: weights, tokenizer, preprocessor. It is opened when the first new feature is needed.

    Each picture and each text goes through alone: in a batch its last bits would depend on its neighbours, and with
    them on what is already kept.
    """

    def __init__(self, folder: Path, *, device: str, threads: int, root: Path | str = ".cache") -> None:
        if not (folder / "config.json").exists():
            raise BaseError(folder, "is no CLIP folder", "name one with config.json in `evaluate.clip` of params.yaml")
        self.folder, self.device, self.threads = folder, device, threads
        self.store, self.new = Store("features", root), 0

    def pictures(self, paths: Sequence[Path]) -> Array:
        """Unit features [n, d] of picture files."""
        return self._all([self._picture(path) for path in paths])

    def texts(self, texts: Sequence[str]) -> Array:
        """Unit features [n, d] of texts."""
        return self._all([self._kept(("text", text), partial(self._read, text)) for text in texts])

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
        libraries = {name: version(name) for name in LIBRARIES}
        return key(sha256_tree(self.folder), sha256_file(ROOM), libraries, self.device, self.threads)

    @cached_property
    def _parts(self) -> tuple[CLIPModel, CLIPImageProcessorPil, CLIPTokenizer]:
        from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        model = CLIPModel.from_pretrained(self.folder, local_files_only=True).eval().to(self.device)
        preprocess = CLIPImageProcessorPil.from_pretrained(self.folder, local_files_only=True)
        return model, preprocess, CLIPTokenizer.from_pretrained(self.folder, local_files_only=True)

    def _see(self, picture: Image.Image) -> Array:
        model, preprocess, _ = self._parts
        pixels = preprocess(images=picture, return_tensors="pt")["pixel_values"].to(self.device)
        return self._project(lambda: model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output))

    def _read(self, text: str) -> Array:
        model, _, tokenizer = self._parts
        words = tokenizer([text], truncation=True, max_length=77, return_tensors="pt")
        words = {name: tensor.to(self.device) for name, tensor in words.items()}
        return self._project(lambda: model.text_projection(model.text_model(**words).pooler_output))

    def _project(self, run: Callable[[], torch.Tensor]) -> Array:
        import torch

        with torch.inference_mode():
            return np.asarray(run()[0].float().cpu().numpy())
