"""The families of Stable Diffusion, as data: all differences between SD 1.x, 2.x and XL are in this file.

A new family is one more record in `FAMILIES`, and a folder in etude/base/configs if single files without a
configuration must be readable. All families have diffusers' ``UNet2DConditionModel`` with two resnets at each level,
its ``AutoencoderKL``, and text encoders of CLIP. Tensors in single files have the names of the first Stable Diffusion
code (LDM).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
UNET, VAE = "model.diffusion_model.", "first_stage_model."  # prefixes in single files, the same in every family
PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}  # modelspec's names → ours
PLAIN, PROJECTED = "CLIPTextModel", "CLIPTextModelWithProjection"  # transformers' classes


@dataclass(frozen=True)
class TextEncoder:
    """A text encoder: its names in files, and which of its states the UNet reads."""

    part: str  # its folder in diffusers' format, and its name in artifacts
    tokenizer: str  # the folder of its tokenizer
    model: str  # transformers' class
    width: int  # numbers in a token's state, in the published models
    pad: str  # the padding token of prompts
    layer: int  # the layer whose states are read, counted from the end: the last is 1
    normed: bool  # whether the final layer norm is applied to them
    pooled: bool  # whether the projected state at the end token is read too
    single: str  # its prefix in single files, after the family's `texts`
    open_clip: bool  # whether its layers have OpenCLIP's names in single files; otherwise transformers' names
    kohya: str  # its prefix in kohya's LoRA files
    embedding: str = ""  # its key in embedding files; "": the family has one encoder, and its files need no key
    layers: int | None = None  # how many of the layers in single files are used; None: all


@dataclass(frozen=True)
class Family:
    """The properties of one family."""

    name: str
    title: str
    text_encoders: tuple[TextEncoder, ...]
    texts: str  # the prefix of the text encoders in single files
    blocks: tuple[int, ...]  # transformer layers at each level of the UNet, top to bottom; 0: a level without attention
    size_ids: bool  # whether the UNet is conditioned on original size, crop and target size, and on the pooled text
    config_marks: Mapping[str, Any]  # values in unet/config.json by which the family is recognised
    tensor_marks: Mapping[str, int | None]  # the same for single files: prefix of a tensor → its ndim, or None: any
    resolution: Mapping[str, int]  # side of the training pictures in px, by prediction
    index: Mapping[str, Any]  # entries of model_index.json, in addition to the parts
    architecture: Mapping[str, str]  # modelspec.architecture, by prediction
    base_version: Mapping[str, str]  # kohya's ss_base_model_version, by prediction
    must_say: bool = False  # whether a single file must contain its prediction type, because both types are usual
    kohya_v2: bool = False  # kohya's ss_v2
    kohya_ldm: bool = False  # whether the UNet's layers have LDM names in kohya's LoRA files
    v_mark: bool = False  # whether a single file with v-prediction contains an empty tensor ``v_pred``

    @property
    def width(self) -> int:
        """Width of the text conditioning: the states of all text encoders, concatenated."""
        return sum(encoder.width for encoder in self.text_encoders)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that have weights."""
        return ("unet", "vae", *(encoder.part for encoder in self.text_encoders))

    @property
    def text_folders(self) -> tuple[str, ...]:
        """The folders of its text encoders and tokenizers, in diffusers' format."""
        return tuple(folder for encoder in self.text_encoders for folder in (encoder.part, encoder.tokenizer))

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders of a base in diffusers' format."""
        return ("unet", "vae", "scheduler", *self.text_folders)


_END = "<|endoftext|>"
_PIPELINE = {"_class_name": "StableDiffusionPipeline", "safety_checker": [None, None], "feature_extractor": [None] * 2}
_PIPELINE_XL = {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True}

SD1 = Family(
    name="sd1",
    title="SD 1.x",
    text_encoders=(
        TextEncoder(
            part="text_encoder",
            tokenizer="tokenizer",
            model=PLAIN,
            width=768,
            pad=_END,
            layer=1,
            normed=True,
            pooled=False,
            single="transformer.",
            open_clip=False,
            kohya="lora_te_",
        ),
    ),
    texts="cond_stage_model.",
    blocks=(1, 1, 1, 0),
    size_ids=False,
    config_marks={"addition_embed_type": None},
    tensor_marks={},
    resolution={"epsilon": 512, "v_prediction": 512},
    index=_PIPELINE,
    architecture={"epsilon": "stable-diffusion-v1", "v_prediction": "stable-diffusion-v1"},
    base_version={"epsilon": "sd_v1", "v_prediction": "sd_v1_v"},
)
SD2 = Family(
    name="sd2",
    title="SD 2.x",
    text_encoders=(
        TextEncoder(
            part="text_encoder",
            tokenizer="tokenizer",
            model=PLAIN,
            width=1024,
            pad="!",
            layer=1,
            normed=True,
            pooled=False,
            single="model.",
            open_clip=True,
            layers=23,  # files contain 24
            kohya="lora_te_",
        ),
    ),
    texts="cond_stage_model.",
    blocks=(1, 1, 1, 0),
    size_ids=False,
    config_marks={"addition_embed_type": None, "use_linear_projection": True},
    tensor_marks={f"{UNET}input_blocks.1.1.proj_in.weight": 2},  # a linear layer; SD 1.x has a 1 × 1 convolution
    must_say=True,
    resolution={"epsilon": 512, "v_prediction": 768},
    index=_PIPELINE,
    architecture={"epsilon": "stable-diffusion-v2-512", "v_prediction": "stable-diffusion-v2-768-v"},
    base_version={"epsilon": "sd_v2", "v_prediction": "sd_v2_v"},
    kohya_v2=True,
)
SDXL = Family(
    name="sdxl",
    title="SDXL",
    text_encoders=(
        TextEncoder(
            part="text_encoder",
            tokenizer="tokenizer",
            model=PLAIN,
            width=768,
            pad=_END,
            layer=2,
            normed=False,
            pooled=False,
            single="0.transformer.",
            open_clip=False,
            kohya="lora_te1_",
            embedding="clip_l",
        ),
        TextEncoder(
            part="text_encoder_2",
            tokenizer="tokenizer_2",
            model=PROJECTED,
            width=1280,
            pad="!",
            layer=2,
            normed=False,
            pooled=True,
            single="1.model.",
            open_clip=True,
            kohya="lora_te2_",
            embedding="clip_g",
        ),
    ),
    texts="conditioner.embedders.",
    blocks=(0, 2, 10),
    size_ids=True,
    config_marks={"addition_embed_type": "text_time"},
    tensor_marks={"conditioner.": None},
    resolution={"epsilon": 1024, "v_prediction": 1024},
    index=_PIPELINE_XL,
    architecture={"epsilon": "stable-diffusion-xl-v1-base", "v_prediction": "stable-diffusion-xl-v1-base"},
    base_version={"epsilon": "sdxl_base_v1-0", "v_prediction": "sdxl_base_v1-0"},
    kohya_ldm=True,
    v_mark=True,
)

# The order matters: a base belongs to the last family whose marks all fit, so a more special family comes later.
FAMILIES: dict[str, Family] = {family.name: family for family in (SD1, SD2, SDXL)}


def by_config(unet: Mapping[str, Any]) -> Family | None:
    """The family of a UNet, recognised by its configuration but never by its widths; None if no family fits."""
    fitting = [family for family in FAMILIES.values() if _has_marks(unet, family.config_marks)]
    return fitting[-1] if fitting else None


def by_tensors(dimensions: Mapping[str, int]) -> Family:
    """The family of a single file, recognised by the names of its tensors and their numbers of dimensions."""
    fitting = [family for family in FAMILIES.values() if _has_tensors(dimensions, family.tensor_marks)]
    return fitting[-1]


def by_names(names: Iterable[str]) -> list[Family]:
    """The families that have all the text encoders and transformer layers that occur in ``names`` of tensors."""
    words = [name.split(".") for name in names]
    parts = {word for name in words for word in name[:2]} & set(text_parts())
    depth = max((_depth(name) for name in words), default=0)
    families = []
    for family in FAMILIES.values():
        own_parts = {encoder.part for encoder in family.text_encoders}
        if parts <= own_parts and depth <= max(family.blocks):
            families.append(family)
    return families


def text_parts() -> tuple[str, ...]:
    """The parts that are text encoders in any family, each once."""
    return tuple(dict.fromkeys(e.part for family in FAMILIES.values() for e in family.text_encoders))


def text_rows(tensors: Mapping[str, T], prefix: str = "") -> list[T]:
    """The entries of ``tensors`` with the name ``prefix`` + text encoder, in the order of the encoders."""
    names = [f"{prefix}{part}" for part in text_parts()]
    return [tensors[name] for name in names if name in tensors]


def learned_parts() -> tuple[str, ...]:
    """The parts that methods change, in any family."""
    return ("unet", *text_parts())


def listed() -> str:
    """The families' names for a sentence: ``sd1, sd2 or sdxl``."""
    *others, last = FAMILIES
    return f"{', '.join(others)} or {last}" if others else last


def _has_marks(unet: Mapping[str, Any], marks: Mapping[str, Any]) -> bool:
    return all(unet.get(key) == value for key, value in marks.items())


def _has_tensors(dimensions: Mapping[str, int], marks: Mapping[str, int | None]) -> bool:
    for beginning, wanted in marks.items():
        dimensions_found = [number for name, number in dimensions.items() if name.startswith(beginning)]
        if not dimensions_found or (wanted is not None and wanted not in dimensions_found):
            return False
    return True


def _depth(words: list[str]) -> int:
    """The number of the transformer layer in a tensor's name, counted from 1; 0 if there is none."""
    place = words.index("transformer_blocks") + 1 if "transformer_blocks" in words[:-1] else 0
    return int(words[place]) + 1 if place and words[place].isdigit() else 0


def lacking_prefixes(names: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """Those of ``wanted`` that are the prefix of no name."""
    all_names = list(names)
    lacking = []
    for prefix in wanted:
        if not any(name.startswith(prefix) for name in all_names):
            lacking.append(prefix)
    return lacking
