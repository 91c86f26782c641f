"""What CLIP sees in pictures, and how its text tower's state becomes comparable with that (Radford et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from etude.base.family import weight_files
from etude.core.errors import BaseError

PROJECTION = "text_projection.weight"


@torch.no_grad()
def embed_pictures(
    encoder: Path, preprocessor: Path, pictures: Sequence[Tensor], device: torch.device | str = "cpu"
) -> Tensor:
    """Image embeddings, projected and not normalised: float32 [n, d], of uint8 pictures [H, W, 3], one at a time.

    ``encoder`` is a folder of CLIP's vision tower with its projection, or of a whole CLIP; ``preprocessor`` holds
    ``preprocessor_config.json``. Raises BaseError.
    """
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection
    from transformers.utils import logging

    shown, told = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # of a whole CLIP the text tower is left over
    try:
        model, info = CLIPVisionModelWithProjection.from_pretrained(
            encoder, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
        prepare = CLIPImageProcessorPil.from_pretrained(preprocessor, local_files_only=True)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BaseError(encoder, f"is no CLIP that sees pictures ({reason})", "name a whole CLIP folder") from error
    finally:
        logging.set_verbosity(told)
        if shown:
            logging.enable_progress_bar()
    if info["missing_keys"]:
        raise BaseError(encoder, "lacks tensors of its vision tower", "fetch it again, whole")
    model.requires_grad_(False).eval().to(device)
    rows = []
    for picture in pictures:
        pixels = prepare(images=picture.numpy(), input_data_format="channels_last", return_tensors="pt")["pixel_values"]
        rows.append(model(pixel_values=pixels.to(device)).image_embeds.cpu())
    return torch.cat(rows)


def text_projection(clip: Path) -> Tensor:
    """The matrix [d, width] that takes a CLIP's text tower to the space of its picture embeddings, in float32."""
    for file in weight_files(clip)[0]:
        if file.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(str(file), framework="pt") as tensors:
                if PROJECTION in tensors.keys():  # noqa: SIM118 - it is no mapping
                    stored: Tensor = tensors.get_tensor(PROJECTION)
                    return stored.float()
        elif file.suffix == ".bin":
            found = torch.load(file, map_location="cpu", weights_only=True)
            if PROJECTION in found:
                matrix: Tensor = found[PROJECTION]
                return matrix.float()
    raise BaseError(clip, f"has no {PROJECTION}", "name the folder of a whole CLIP, with both towers")
