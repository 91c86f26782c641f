"""Random Stable Diffusion bases with the real topology and tiny widths, for tests. Nothing is downloaded.

A base has every tensor name of its family (sd1: 686 + 248 + 196), CLIP's tokenizer form and its real schedulers'
configuration, at 64 px. Values are random but large enough that a changed weight, word or seed changes the picture.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)
from transformers.utils.logging import disable_progress_bar

TEXT = (
    "a an the of in on and with photo picture painting drawing sketch icon style art background red green blue yellow "
    "black white orange purple pink brown grey cat dog otter bird fish fox bear tree house car flower apple cake heart "
    "star moon sun face happy sad small large noto flat glossy blob twitter firefox object person"
)
WORDS = TEXT.split()
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
WIDTH = 32  # of the (first) text encoder; sdxl's second has 48
SAMPLE = 8  # latent side: 64 px


def build_tiny(
    folder: Path | str,
    family: str = "sd1",
    seed: int = 0,
    unclip: bool = False,
    variation: bool = False,
    shallow: bool = False,
) -> Path:
    """Write a random base of family sd1, sd2 (v-prediction) or sdxl; sd1 gets a ``clip/`` for evaluation as well.

    With ``unclip`` it also takes a picture, as Stable unCLIP does. With ``variation`` it takes only pictures. With
    ``shallow`` its text encoders have two layers, and its transformers one.
    """
    return Path(shutil.copytree(_built(family, seed, unclip, variation, shallow), folder, dirs_exist_ok=True))


@cache
def _built(family: str, seed: int, unclip: bool, variation: bool, shallow: bool) -> Path:
    """Such a base in a folder of this process, to be copied: making one takes longer."""
    temporary = tempfile.mkdtemp(prefix="tiny-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    folder = Path(temporary)
    disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _unet(family, unclip, shallow).save_pretrained(folder / "unet")
        _vae().save_pretrained(folder / "vae")
        for number, encoder in enumerate([] if variation else _text_encoders(family, shallow)):
            end = "_2" if number else ""
            encoder.save_pretrained(folder / f"text_encoder{end}")
            write_tokenizer(folder / f"tokenizer{end}", pad=EOS if family != "sd2" and not number else "!")
        if family == "sd1":
            write_clip(folder / "clip")
        if unclip or variation:
            write_eye(folder)
        if unclip:
            write_unclip(folder)
    _write(folder / "scheduler" / "scheduler_config.json", _scheduler(family))
    _write(folder / "model_index.json", _variation_index() if variation else _index(family, unclip))
    return folder


def write_eye(folder: Path) -> None:
    """Write the image encoder and its preprocessor."""
    vision = CLIPVisionConfig(**_vision_size(), initializer_factor=4.0)
    CLIPVisionModelWithProjection(vision).save_pretrained(folder / "image_encoder")
    _write(folder / "feature_extractor" / "preprocessor_config.json", _preprocessor())


def write_unclip(folder: Path) -> None:
    """Write the additional parts of an unCLIP base: normaliser and noise schedule."""
    normalizer = StableUnCLIPImageNormalizer(WIDTH)
    with torch.no_grad():
        normalizer.mean.normal_()
        normalizer.std.uniform_(0.5, 1.5)
    normalizer.save_pretrained(folder / "image_normalizer")
    DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(folder / "image_noising_scheduler")


def write_clip(folder: Path) -> None:
    """Write a random CLIPModel (32 px) with tokenizer and preprocessor, which `evaluate` and the captioner open."""
    text = dict(_text_size(WIDTH, 2), projection_dim=WIDTH)
    CLIPModel(CLIPConfig(text_config=text, vision_config=_vision_size(), projection_dim=WIDTH)).save_pretrained(folder)
    write_tokenizer(folder)
    _write(folder / "preprocessor_config.json", _preprocessor())


def _vision_size() -> dict[str, Any]:
    vision = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return vision | {"image_size": 32, "patch_size": 8, "projection_dim": WIDTH}


def _preprocessor() -> dict[str, Any]:
    mean_std = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    steps = {"do_resize": True, "do_center_crop": True, "do_rescale": True, "do_normalize": True, "resample": 3}
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "rescale_factor": 1 / 255}
    kind = {"image_processor_type": "CLIPImageProcessor", "do_convert_rgb": True}
    return kind | steps | sizes | mean_std


def write_tokenizer(folder: Path, pad: str = EOS) -> None:
    """Write CLIP's ``vocab.json`` and ``merges.txt``: every byte, so any text has tokens; each of WORDS is one."""
    vocabulary, merges = vocabulary_and_merges()
    _write(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    special = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": pad}
    _write(folder / "special_tokens_map.json", special)
    shape = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, "errors": "replace"}
    _write(folder / "tokenizer_config.json", special | shape | {"add_prefix_space": False})


@cache
def vocabulary_and_merges() -> tuple[dict[str, int], tuple[str, ...]]:
    """Token → id in CLIP's order (bytes, bytes that end a word, merges, BOS, EOS), and the merges."""
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        symbols = _bpe([*word[:-1], word[-1] + "</w>"], merges)
        while len(symbols) > 1:
            merges.append((symbols[0], symbols[1]))
            symbols = [symbols[0] + symbols[1], *symbols[2:]]
    single = _byte_symbols()
    tokens = [*single, *(symbol + "</w>" for symbol in single), *(a + b for a, b in merges), BOS, EOS]
    return {token: number for number, token in enumerate(tokens)}, tuple(f"{a} {b}" for a, b in merges)


def _bpe(symbols: list[str], merges: list[tuple[str, str]]) -> list[str]:
    for a, b in merges:
        position = 0
        while position < len(symbols) - 1:
            if (symbols[position], symbols[position + 1]) == (a, b):
                symbols[position : position + 2] = [a + b]
            position += 1
    return symbols


def _byte_symbols() -> list[str]:
    """GPT-2's printable character for each byte, in CLIP's order: printable ones first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [*map(chr, printable), *(chr(256 + number) for number in range(len(others)))]


def _unet(family: str, unclip: bool, shallow: bool) -> UNet2DConditionModel:
    cross, plain = "CrossAttn", ""
    levels = {"sd1": (cross, cross, cross, plain), "sd2": (cross, cross, cross, plain), "sdxl": (plain, cross, cross)}
    widths = (16, 24, 32) if family == "sdxl" else (16, 24, 32, 32)  # unequal, as in real models: shortcuts need it
    config: dict[str, Any] = {"cross_attention_dim": WIDTH, "attention_head_dim": 8}
    if family == "sd2":
        config = {"cross_attention_dim": WIDTH, "attention_head_dim": (2, 3, 4, 4), "use_linear_projection": True}
    if family == "sdxl":
        config = {"cross_attention_dim": WIDTH + 48, "attention_head_dim": (2, 3, 4), "use_linear_projection": True}
        depths = (1, 1, 1) if shallow else (1, 2, 10)
        config |= {"transformer_layers_per_block": depths, "addition_embed_type": "text_time"}
        config |= {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 48 + 6 * 8}
    down = tuple(f"{kind}DownBlock2D" for kind in levels[family])
    up = tuple(f"{kind}UpBlock2D" for kind in reversed(levels[family]))
    shape = {"block_out_channels": widths, "down_block_types": down, "up_block_types": up, "norm_num_groups": 8}
    if unclip:
        config |= {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 2 * WIDTH}
    return UNet2DConditionModel(sample_size=SAMPLE, layers_per_block=2, **shape, **config)


def _vae() -> AutoencoderKL:
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    widths = {"block_out_channels": (8, 16, 24, 24), "norm_num_groups": 8, "layers_per_block": 2}
    vae = AutoencoderKL(sample_size=8 * SAMPLE, latent_channels=4, scaling_factor=0.18215, **kinds, **widths)
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(4.0)  # more contrast: an untrained decoder draws grey, which hides differences
        vae.quant_conv.bias[4:].sub_(4.0)  # small log-variance of the latents, as in a trained encoder
    return vae


def _text_encoders(family: str, shallow: bool) -> list[torch.nn.Module]:
    layers = {"sd1": (12,), "sd2": (23,), "sdxl": (12, 32)}[family]
    sizes = [_text_size(width, 2 if shallow else count) for width, count in zip((WIDTH, 48), layers, strict=False)]
    if family == "sd2":
        return [CLIPTextModel(CLIPTextConfig(**sizes[0], hidden_act="gelu"))]
    first = CLIPTextModel(CLIPTextConfig(**sizes[0]))
    if family == "sd1":
        return [first]
    second = CLIPTextConfig(**sizes[1], hidden_act="gelu", projection_dim=48)
    return [first, CLIPTextModelWithProjection(second)]


def _text_size(width: int, layers: int) -> dict[str, Any]:
    count = len(vocabulary_and_merges()[0])
    size = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers, "num_attention_heads": 4}
    # A larger initial range than CLIP's 0.02: at these widths words would hardly differ.
    size |= {"vocab_size": count, "max_position_embeddings": 77, "initializer_factor": 8.0}
    return size | {"bos_token_id": count - 2, "eos_token_id": count - 1, "pad_token_id": count - 1}


def _scheduler(family: str) -> dict[str, Any]:
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
    shared = {"trained_betas": None, "steps_offset": 1, "timestep_spacing": "leading", "clip_sample": False}
    name = {"sd1": "PNDMScheduler", "sd2": "DDIMScheduler", "sdxl": "EulerDiscreteScheduler"}[family]
    own: dict[str, Any] = {"_class_name": name, "prediction_type": "v_prediction" if family == "sd2" else "epsilon"}
    if family != "sdxl":
        own["set_alpha_to_one"] = False
    return betas | shared | own | ({"skip_prk_steps": True} if family == "sd1" else {})


def _index(family: str, unclip: bool) -> dict[str, Any]:
    names = {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    names |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    names |= {"scheduler": ["diffusers", _scheduler(family)["_class_name"]]}
    if family == "sdxl":
        names["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
        names["tokenizer_2"] = ["transformers", "CLIPTokenizer"]
        return {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True, **names}
    if unclip:
        return names | _unclip_index()
    extra = {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    return {"_class_name": "StableDiffusionPipeline", **names, **extra}


def _unclip_index() -> dict[str, Any]:
    names = {"image_encoder": ["transformers", "CLIPVisionModelWithProjection"]}
    names |= {"feature_extractor": ["transformers", "CLIPImageProcessor"]}
    names |= {"image_normalizer": ["stable_diffusion", "StableUnCLIPImageNormalizer"]}
    names |= {"image_noising_scheduler": ["diffusers", "DDPMScheduler"]}
    return {"_class_name": "StableUnCLIPImg2ImgPipeline", **names}


def _variation_index() -> dict[str, Any]:
    names = _index("sd1", False) | _unclip_index() | {"_class_name": "StableDiffusionImageVariationPipeline"}
    absent = ("text_encoder", "tokenizer", "image_normalizer", "image_noising_scheduler")
    return {name: value for name, value in names.items() if name not in absent}


def _write(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
