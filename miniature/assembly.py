"""The trained parts as one diffusers folder with a CLIP and the classifier beside it.

The names of the text encoder's tensors begin with ``text_model.``, as in SD 1.5's file: old and new transformers
read these names.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPModel

from etude.core.errors import InputError
from etude.core.files import read_json, write_json
from etude.core.tensors import write_tensors
from miniature.clip import read_clip
from miniature.unet import SCHEDULE, read_unet
from miniature.vae import read_vae
from miniature.world import OUT

PUBLISHED_CLASSIFIER = "judge"  # its folder in models/miniature, which params files name

TOKENIZER_FILES = ("vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json")
JUDGE_FILES = ("config.json", "model.safetensors")


def assemble(folder: Path, unet: UNet2DConditionModel, vae: AutoencoderKL, clip: CLIPModel, tokenizer: Path) -> None:
    """A StableDiffusionPipeline folder and ``clip/``, in float16; the text encoder is the CLIP's text tower."""
    for name, part in (("unet", unet), ("vae", vae)):
        part.save_config(folder / name)
        tidy_config(folder / name / "config.json")
        save_half(folder / name / "diffusion_pytorch_model.safetensors", part.state_dict())
    weights = clip.state_dict()
    text = {name: value for name, value in weights.items() if name.startswith("text_model.")}
    save_half(folder / "text_encoder" / "model.safetensors", text)
    write_json(folder / "text_encoder" / "config.json", text_config(clip))
    save_half(folder / "clip" / "model.safetensors", weights)
    write_json(folder / "clip" / "config.json", clip_config(clip))
    write_json(folder / "clip" / "preprocessor_config.json", preprocessor(clip.config.vision_config.image_size))
    for place in (folder / "tokenizer", folder / "clip"):
        place.mkdir(exist_ok=True)
        for file in TOKENIZER_FILES:
            shutil.copyfile(tokenizer / file, place / file)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler())
    write_json(folder / "model_index.json", model_index())


def copy_classifier(folder: Path, classifier: Path = OUT / "classifier") -> None:
    """Copy the classifier's files to ``folder``; raises InputError if the stage *classifier* has not run."""
    if not classifier.is_dir():
        raise InputError(classifier, "is missing", "run the stage classifier: `dvc repro classifier` in miniature")
    folder.mkdir()
    for file in JUDGE_FILES:
        shutil.copyfile(classifier / file, folder / file)


def assemble_all(folder: Path) -> None:
    """Assemble everything that the stages trained, and the classifier, in ``folder``."""
    assemble(folder, read_unet(), read_vae(OUT / "decoder"), read_clip(OUT / "vision"), OUT / "tokenizer")
    copy_classifier(folder / PUBLISHED_CLASSIFIER)


def save_half(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Save weights in float16, and integers unchanged."""
    half = {name: value.to(torch.float16) if value.is_floating_point() else value for name, value in tensors.items()}
    write_tensors(path, half, {"format": "pt"})


def tidy_config(path: Path) -> None:
    """Remove from a config what depends on paths and on the library's version."""
    config = read_json(path)
    config.pop("_name_or_path", None)
    config.pop("_diffusers_version", None)
    write_json(path, config)


TOWER = [
    "attention_dropout",
    "hidden_act",
    "hidden_size",
    "initializer_factor",
    "initializer_range",
    "intermediate_size",
    "layer_norm_eps",
    "num_attention_heads",
    "num_hidden_layers",
    "projection_dim",
]
TEXT = [*TOWER, *["bos_token_id", "eos_token_id", "max_position_embeddings", "pad_token_id", "vocab_size"]]
VISION = [*TOWER, *["image_size", "num_channels", "patch_size"]]


def plain(config: Any, keys: list[str]) -> dict[str, Any]:
    """The values that determine a tower, without the defaults that every version of transformers adds."""
    return {key: getattr(config, key) for key in keys}


def text_config(clip: CLIPModel) -> dict[str, Any]:
    """The configuration of the text tower alone.

    Without ``dtype`` transformers would compute in the file's float16 while diffusers computes in float32.
    """
    own = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "dtype": "float32"}
    return {**own, **plain(clip.config.text_config, TEXT)}


def vision_config(clip: CLIPModel) -> dict[str, Any]:
    """The configuration of the vision tower alone."""
    own = {"architectures": ["CLIPVisionModelWithProjection"], "model_type": "clip_vision_model", "dtype": "float32"}
    return {**own, **plain(clip.config.vision_config, VISION)}


def clip_config(clip: CLIPModel) -> dict[str, Any]:
    """The configuration of both towers."""
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "dtype": "float32",
        "projection_dim": clip.config.projection_dim,
        "logit_scale_init_value": clip.config.logit_scale_init_value,
        "text_config": {"model_type": "clip_text_model", **plain(clip.config.text_config, TEXT)},
        "vision_config": {"model_type": "clip_vision_model", **plain(clip.config.vision_config, VISION)},
    }


def preprocessor(size: int) -> dict[str, Any]:
    """How a picture is prepared for the vision tower: shrunk, cut square, values from -1 to 1."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "feature_extractor_type": "CLIPFeatureExtractor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }


def scheduler() -> dict[str, Any]:
    """SD 1.5's scheduler configuration."""
    own = {"set_alpha_to_one": False, "skip_prk_steps": True, "timestep_spacing": "leading", "trained_betas": None}
    return {"_class_name": "PNDMScheduler", **SCHEDULE, **own}


def model_index() -> dict[str, Any]:
    """The parts of the pipeline; no safety checker, since the model draws only emoji."""
    return {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
