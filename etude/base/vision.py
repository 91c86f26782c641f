"""CLIP embeddings of pictures, and the matrix that makes CLIP's texts comparable with them (Radford et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from etude.base.clip import ClipVision
from etude.core.errors import BaseError
from etude.core.model_folders import weight_paths
from etude.core.pickles import read_either

PROJECTION = "text_projection.weight"


def embed_pictures(
    encoder: Path, preprocessor: Path, pictures: Sequence[Tensor], device: torch.device | str = "cpu"
) -> Tensor:
    """Embeddings float32 [n, d] of uint8 pictures [H, W, 3], projected but not normalised; the batch size is 1.

    ``encoder`` is the folder of CLIP's vision tower with its projection, or of a whole CLIP; ``preprocessor`` contains
    ``preprocessor_config.json``. Raises BaseError.
    """
    clip = ClipVision(encoder, device, "give the folder of a whole CLIP", preprocessor)
    embeddings = [clip.see(Image.fromarray(picture.numpy())) for picture in pictures]
    return torch.stack(embeddings)


def text_projection(clip: Path) -> Tensor:
    """The matrix [d, width] from the state of CLIP's text tower to the space of its picture embeddings, in float32."""
    for file in weight_paths(clip):
        found, _ = read_either(file, lambda name: name == PROJECTION)
        if found:
            return found[PROJECTION].float()
    raise BaseError(
        clip, f"has no {PROJECTION}", "give the folder of a whole CLIP, with its text model and its vision model"
    )
