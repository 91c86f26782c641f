"""The eyes of the captioner: a CLIP folder as two functions, pictures → unit vectors and texts → unit vectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
from transformers.utils import logging

from etude.core.errors import BaseError

Array = NDArray[np.floating[Any]]
TEXTS = 64  # read at a time


class Clip:
    """A transformers CLIPModel with its tokenizer and preprocessor, read from a local folder alone."""

    def __init__(self, folder: Path | str, device: str) -> None:
        logging.disable_progress_bar()
        try:
            model, told = CLIPModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
            self._preprocess = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
            self._tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
            fault = f"is no CLIP folder ({(str(error).splitlines() or [type(error).__name__])[0]}), or a damaged one"
            raise BaseError(folder, fault, "correct `caption.model`, or set `caption.captioner: none`") from error
        if told["missing_keys"]:
            fault = f"lacks {len(told['missing_keys'])} tensors, such as {min(told['missing_keys'])}"
            raise BaseError(folder, fault, "correct `caption.model`, or fetch it again")
        self._model = model.eval().to(device)
        self._device = device

    @torch.inference_mode()
    def see(self, paths: Iterable[Path]) -> Array:
        """Unit features [n, d] of picture files, each alone: in a batch, the last bits depend on its neighbours."""
        return np.concatenate([self._see(path) for path in paths])

    def _see(self, path: Path) -> Array:
        with Image.open(path) as image:
            pixels = self._preprocess(images=image.convert("RGB"), return_tensors="pt")["pixel_values"]
        states = self._model.vision_model(pixel_values=pixels.to(self._device)).pooler_output
        return _unit(self._model.visual_projection(states))

    @torch.inference_mode()
    def read(self, texts: Sequence[str]) -> Array:
        """Unit features [n, d] of texts."""
        groups = [texts[start : start + TEXTS] for start in range(0, len(texts), TEXTS)]
        return np.concatenate([self._read(list(group)) for group in groups])

    def _read(self, texts: list[str]) -> Array:
        length = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
        states = self._model.text_model(**tokens.to(self._device)).pooler_output
        return _unit(self._model.text_projection(states))


def _unit(features: torch.Tensor) -> Array:
    return np.asarray(torch.nn.functional.normalize(features.double(), dim=-1).cpu().numpy())
