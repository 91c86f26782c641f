"""A CLIP model of transformers, from a local folder: embeddings of pictures and texts (Radford et al., 2021).

The batch size for pictures is 1: in a larger batch, the last bits of an embedding depend on the other pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from etude.base.bounds import check_config
from etude.base.damage import DAMAGED, reason
from etude.base.libraries import (
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)
from etude.base.quiet import quietly
from etude.core.errors import BaseError
from etude.core.model_folders import read_config
from etude.core.weights import is_finite


class ClipVision:
    """The part of a CLIP that embeds pictures: its vision tower, projection and preprocessor."""

    kind: type[Any] = CLIPVisionModelWithProjection

    def __init__(
        self, folder: Path | str, device: torch.device | str, remedy: str, preprocessor: Path | str | None = None
    ) -> None:
        """Load ``folder``; ``preprocessor_config.json`` is in it, or in ``preprocessor``.

        Raises BaseError, with ``remedy`` as the next action, if files or tensors are missing or damaged.
        """
        if not Path(folder, "config.json").exists():
            raise BaseError(folder, "is no CLIP folder: config.json is missing", remedy)
        try:
            _check_config(Path(folder, "config.json"))
            load = self.kind.from_pretrained  # called quietly: it would warn that the text tower is not loaded
            model, info = quietly(load, folder, local_files_only=True, dtype=torch.float32, output_loading_info=True)
            self._prepare = CLIPImageProcessorPil.from_pretrained(preprocessor or folder, local_files_only=True)
            self._open_text(folder)
        except BaseError as error:
            why = f"{Path(error.place).name}: {error.fault}"
            raise BaseError(folder, f"is no CLIP folder ({why}), or a damaged one", remedy) from error
        except DAMAGED as error:
            why = reason(error)
            if "ignore_mismatched_sizes" in str(error):  # transformers' own message is advice to programmers
                why = "its tensors have other shapes than its config.json says"
            raise BaseError(folder, f"is no CLIP folder ({why}), or a damaged one", remedy) from error
        missing = info["missing_keys"]
        if missing:
            raise BaseError(folder, f"lacks {len(missing)} tensors, such as {min(missing)}", remedy)
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and not is_finite(tensor):
                fault = f"has numbers in `{name}` that are not finite (NaN or infinity)"
                raise BaseError(folder, fault, remedy)
        self._model = model.requires_grad_(False).eval().to(device)
        self._device = device

    def _open_text(self, folder: Path | str) -> None:
        """Load what reads texts: nothing for a vision tower."""

    @torch.no_grad()
    def see(self, picture: Image.Image) -> Tensor:
        """The embedding of an RGB picture: float32 [d] on the CPU, projected and not normalised."""
        pixels = self._prepare(images=picture, return_tensors="pt")["pixel_values"]
        states = self._model.vision_model(pixel_values=pixels.to(self._device)).pooler_output
        projected: Tensor = self._model.visual_projection(states)
        return projected[0].cpu()


class Clip(ClipVision):
    """A whole CLIP: it embeds pictures and texts."""

    kind = CLIPModel

    def _open_text(self, folder: Path | str) -> None:
        self._tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)

    @torch.no_grad()
    def read(self, texts: Sequence[str]) -> Tensor:
        """The embeddings of texts in one batch: float32 [n, d] on the CPU, projected and not normalised."""
        length = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        states = self._model.text_model(**tokens.to(self._device)).pooler_output
        projected: Tensor = self._model.text_projection(states)
        return projected.cpu()


def _check_config(file: Path) -> None:
    """Raise BaseError for sizes that no CLIP has, in the configuration of a whole one or of its vision tower."""
    config = read_config(file)
    for name, kind in (("vision_config", CLIPVisionConfig), ("text_config", CLIPTextConfig)):
        tower = config.get(name, config)
        if isinstance(tower, dict):
            check_config(file, tower, kind)
