"""Put the unCLIP model together as a folder of diffusers' ``StableUnCLIPImg2ImgPipeline``: ``models/miniature-unclip``.

What is as in ``models/miniature`` is a link to the file there: autoencoder, text encoder, tokenizer, and the UNet's
first shard. The second holds what changed; diffusers reads shards in the order of their names, so it comes out on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPModel

from etude.errors import InputError
from etude.files import read_header, read_json, read_tensors, sha256_file, write_json, write_tensors
from pipelines.miniature.assembly import save_half
from pipelines.miniature.embeddings import NOISING

INDEX = "diffusion_pytorch_model.safetensors.index.json"
SHARDS = tuple(f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2))
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
    """Whether ``out/unclip`` was trained from the very UNet in ``out/unet``."""
    weights = unet / "diffusion_pytorch_model.safetensors"
    return bool(read_json(unclip / "origin.json")["unet"] == sha256_file(weights))


def assemble_unclip(folder: Path, model: Path, unclip: Path, clip: CLIPModel, config: Mapping[str, Any]) -> None:
    """Fill ``folder``, which lies beside the published ``model``; ``config`` is the image encoder's.

    ``unclip`` is the stage's out.
    """
    for file in SHARED:
        link(folder / file, model / file)
    link(folder / "feature_extractor" / "preprocessor_config.json", model / "clip" / "preprocessor_config.json")
    changed = read_tensors(unclip / "changed.safetensors")[0]
    write_unet(folder / "unet", model / "unet", changed, UNet2DConditionModel.load_config(unclip))
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


def write_unet(folder: Path, published: Path, changed: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """The UNet as two shards: the published one by a link, and what changed; each tensor's place in the index."""
    weights = published / "diffusion_pytorch_model.safetensors"
    kept = [name for name in read_header(weights) if name != "__metadata__"]
    if not set(changed) - set(kept):
        raise InputError(weights, "has all that changed already", "publish the UNet that unclip was trained from")
    folder.mkdir(parents=True, exist_ok=True)
    link(folder / SHARDS[0], weights)
    save_half(folder / SHARDS[1], changed)
    places = {name: SHARDS[name in changed] for name in sorted({*kept, *changed})}
    size = sum((folder / shard).stat().st_size for shard in SHARDS)
    write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": places})
    plain = {key: value for key, value in config.items() if key not in ("_name_or_path", "_diffusers_version")}
    write_json(folder / "config.json", plain)


def link(path: Path, target: Path) -> None:
    """A relative link, that holds wherever both folders lie side by side."""
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
