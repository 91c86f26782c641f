"""Put the unCLIP model together as a folder of diffusers' ``StableUnCLIPImg2ImgPipeline``: ``models/miniature-unclip``.

The parts that equal those of ``models/miniature`` (autoencoder, text encoder, tokenizer) are links to the files there.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import CLIPModel

from etude.core.files import read_json, sha256_file, write_json
from etude.core.tensors import read_tensors, write_tensors
from miniature.assembly import save_half, tidy_config
from miniature.embeddings import NOISING

WEIGHTS = "diffusion_pytorch_model.safetensors"
SHARED = (
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
)


def is_of(unclip: Path, unet: Path) -> bool:
    """Whether ``out/unclip`` was trained from exactly the UNet in ``out/unet``."""
    return bool(read_json(unclip / "origin.json")["unet"] == sha256_file(unet / WEIGHTS))


def shared(model: Path) -> dict[str, str]:
    """The published files in ``model`` to which the unCLIP model links: file → SHA-256; may be empty."""
    return {file: sha256_file(model / file) for file in SHARED if (model / file).is_file()}


def assemble_unclip(folder: Path, model: Path, unclip: Path, clip: CLIPModel, config: Mapping[str, Any]) -> None:
    """Fill ``folder``, which is beside the published ``model``; ``config`` is the image encoder's.

    ``unclip`` is the stage's out.
    """
    for file in SHARED:
        link(folder / file, model / file)
    link(folder / "feature_extractor" / "preprocessor_config.json", model / "clip" / "preprocessor_config.json")
    save_half(folder / "unet" / WEIGHTS, read_tensors(unclip / WEIGHTS)[0])
    shutil.copyfile(unclip / "config.json", folder / "unet" / "config.json")
    tidy_config(folder / "unet" / "config.json")
    vision = {name: value for name, value in clip.state_dict().items() if name.startswith("vis")}
    save_half(folder / "image_encoder" / "model.safetensors", vision)
    write_json(folder / "image_encoder" / "config.json", config)
    normaliser = read_tensors(unclip / "normaliser.safetensors")[0]
    write_tensors(folder / "image_normalizer" / "diffusion_pytorch_model.safetensors", normaliser, {"format": "pt"})
    width = normaliser["mean"].shape[1]
    write_json(
        folder / "image_normalizer" / "config.json",
        {"_class_name": "StableUnCLIPImageNormalizer", "embedding_dim": width},
    )
    write_json(
        folder / "image_noising_scheduler" / "scheduler_config.json", {"_class_name": "DDPMScheduler", **NOISING}
    )
    write_json(folder / "model_index.json", model_index())


def link(path: Path, target: Path) -> None:
    """Make a relative link, which works wherever both folders are side by side."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(Path("..", "..", target.parent.parent.name, *target.parts[-2:]))


def model_index() -> dict[str, Any]:
    """The parts of the pipeline."""
    return {
        "_class_name": "StableUnCLIPImg2ImgPipeline",
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "image_noising_scheduler": ["diffusers", "DDPMScheduler"],
        "image_normalizer": ["stable_diffusion", "StableUnCLIPImageNormalizer"],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
