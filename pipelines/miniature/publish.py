"""Put the trained parts together as a diffusers folder with a CLIP beside it: ``models/miniature``.

A command, not a stage (``make miniature-publish``): what is published lies in git, and no stage writes there. The names
of the text encoder's tensors begin with ``text_model.``, as in SD 1.5's file; old and new transformers read that.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPModel

from etude.files import read_json, read_tensors, replace_folder, write_json
from pipelines.miniature.card import write_card
from pipelines.miniature.clip import read_clip
from pipelines.miniature.unclip_card import write_unclip_card
from pipelines.miniature.unclip_folder import assemble_unclip, is_of, save_half
from pipelines.miniature.unet import SCHEDULE
from pipelines.miniature.vae import read_vae
from pipelines.miniature.world import OUT, World, read_world
from tasks import run
from tasks.console import say

MODEL, UNCLIP = Path("models/miniature"), Path("models/miniature-unclip")
TOKENIZER_FILES = ("vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json")


def publish() -> None:
    """Write ``models/miniature`` and ``models/miniature-unclip`` from the stages' outs."""
    world = read_world()
    unet = read_unet()
    with replace_folder(MODEL) as folder:
        assemble(folder, unet, read_vae(OUT / "decoder"), read_clip(OUT / "vision"), OUT / "tokenizer")
        copy_judge(folder / "judge")
        write_words(folder, world)
        write_card(folder, world)
    publish_unclip(world)


def copy_judge(folder: Path) -> None:
    """The judge as the evaluation opens it; its metrics stand in the card."""
    stage = OUT / "judge"
    if not stage.is_dir():
        say(f"{folder.name} is left out: {stage} is missing; run the stage judge and publish again")
        return
    folder.mkdir()
    for file in ("config.json", "model.safetensors"):
        shutil.copyfile(stage / file, folder / file)


def publish_unclip(world: World) -> None:
    """``models/miniature-unclip`` if it is of the UNet just published; an older one would point at other weights."""
    stage = OUT / "unclip"
    if not stage.is_dir() or not is_of(stage, OUT / "unet"):
        shutil.rmtree(UNCLIP, ignore_errors=True)
        say(f"{UNCLIP} is left out: {stage} is missing, or of another UNet; run the stage unclip and publish again")
        return
    with replace_folder(UNCLIP) as folder:
        clip = read_clip(OUT / "vision")
        assemble_unclip(folder, MODEL, stage, clip, vision_config(clip))
        write_unclip_card(folder, stage, world)


def read_unet(folder: Path = OUT / "unet") -> UNet2DConditionModel:
    """The trained denoiser, frozen."""
    model = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder))
    model.load_state_dict(read_tensors(folder / "diffusion_pytorch_model.safetensors")[0])
    return model.eval().requires_grad_(False)


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


def tidy_config(path: Path) -> None:
    """A config without what depends on the place and the library's version."""
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
    """What shapes a tower; not the defaults that every version of transformers adds."""
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
    """How a picture becomes what the vision tower reads: shrunk, cut square, from -1 to 1."""
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
    """The parts of the pipeline; no safety checker, since the model knows only emoji."""
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


def write_words(folder: Path, world: World) -> None:
    """``words.txt``: what a captioner can call a picture, one name a line."""
    (folder / "words.txt").write_text("\n".join(sorted(world.concepts)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(publish)
