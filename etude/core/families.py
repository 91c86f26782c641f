"""The families of Stable Diffusion, as data: what sets SD 1.x, 2.x and XL apart is said here and nowhere else.

A new family is one more record in `FAMILIES`, and a folder in etude/base/configs where single files of it are to be
opened without their configuration beside them. All have diffusers' ``UNet2DConditionModel`` with two resnets a level,
its ``AutoencoderKL``, and text encoders of CLIP. Single files have the names of the first Stable Diffusion code (LDM).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
UNET, VAE = "model.diffusion_model.", "first_stage_model."  # where single files have them, in every family
PLAIN, PROJECTED = "CLIPTextModel", "CLIPTextModelWithProjection"  # transformers' classes


@dataclass(frozen=True)
class TextEncoder:
    """A text encoder: where files have it, and what of it the UNet reads."""

    part: str  # its folder in diffusers' form, and its name in artifacts
    tokenizer: str  # the folder of its tokenizer
    model: str  # transformers' class
    width: int  # of a token's row, in the published models
    pad: str  # the token that fills up prompts
    layer: int  # whose states are read, counted from the last, which is 1
    normed: bool  # whether the final layer norm comes after it
    pooled: bool  # whether the projected state at the end token is read as well
    single: str  # its prefix in single files, below the family's `texts`
    open_clip: bool  # whether single files have OpenCLIP's names of its layers; else they are transformers'
    kohya: str  # its prefix in kohya's LoRA files
    embedding: str = ""  # its key in embedding files; "": the files of one encoder, which need none
    layers: int | None = None  # of those in single files, the ones that are used; None: all


@dataclass(frozen=True)
class Family:
    """What sets a family apart."""

    name: str
    title: str
    text_encoders: tuple[TextEncoder, ...]
    texts: str  # the prefix below which single files have the text encoders
    blocks: tuple[int, ...]  # transformer layers at each level of the UNet, going down; 0: a level without attention
    size_ids: bool  # whether the UNet is told the picture's original size, crop and target size, and the pooled text
    config_marks: Mapping[str, Any]  # of its unet/config.json
    tensor_marks: Mapping[str, int | None]  # of its single files: beginning of a tensor's name → its dimensions, or any
    resolution: Mapping[str, int]  # side in px that it was trained at, by prediction
    index: Mapping[str, Any]  # of model_index.json, beside the parts
    architecture: Mapping[str, str]  # modelspec.architecture, by prediction
    base_version: Mapping[str, str]  # kohya's ss_base_model_version, by prediction
    must_say: bool = False  # whether a single file must say what it predicts, as both kinds are usual
    kohya_v2: bool = False  # kohya's ss_v2
    kohya_ldm: bool = False  # whether kohya's LoRA files have the LDM names of the UNet's layers
    v_mark: bool = False  # whether a single file that predicts v is marked by an empty tensor ``v_pred``

    @property
    def width(self) -> int:
        """Of the text that the UNet reads: the encoders' states side by side."""
        return sum(encoder.width for encoder in self.text_encoders)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that have weights."""
        return ("unet", "vae", *(encoder.part for encoder in self.text_encoders))

    @property
    def text_folders(self) -> tuple[str, ...]:
        """The folders of its text encoders and tokenizers, in diffusers' form."""
        return tuple(folder for encoder in self.text_encoders for folder in (encoder.part, encoder.tokenizer))

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders that a base in diffusers' form has."""
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
            layers=23,  # files hold 24
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

# The order counts: a base is of the last family that has all its marks, so the more special one comes later.
FAMILIES: dict[str, Family] = {family.name: family for family in (SD1, SD2, SDXL)}


def by_config(unet: Mapping[str, Any]) -> Family | None:
    """The family of a UNet by its configuration, never by its widths."""
    fitting = [family for family in FAMILIES.values() if _has_marks(unet, family.config_marks)]
    return fitting[-1] if fitting else None


def by_tensors(dimensions: Mapping[str, int]) -> Family:
    """The family of a single file by its tensors' names and numbers of dimensions."""
    fitting = [family for family in FAMILIES.values() if _has_tensors(dimensions, family.tensor_marks)]
    return fitting[-1]


def by_names(names: Iterable[str]) -> list[Family]:
    """The families that have all text encoders and transformer layers of which names of tensors speak."""
    words = [name.split(".") for name in names]
    parts = {word for name in words for word in name[:2]} & set(text_parts())
    depth = max((_depth(name) for name in words), default=0)
    found = []
    for family in FAMILIES.values():
        known = {encoder.part for encoder in family.text_encoders}
        if parts <= known and depth <= max(family.blocks):
            found.append(family)
    return found


def text_parts() -> tuple[str, ...]:
    """The parts that are text encoders in any family, each once."""
    return tuple(dict.fromkeys(e.part for family in FAMILIES.values() for e in family.text_encoders))


def text_rows(tensors: Mapping[str, T], prefix: str = "") -> list[T]:
    """What is named ``prefix`` and a text encoder, in the order of the encoders; those that are there."""
    names = [f"{prefix}{part}" for part in text_parts()]
    return [tensors[name] for name in names if name in tensors]


def learned_parts() -> tuple[str, ...]:
    """The parts that methods change, in any family."""
    return ("unet", *text_parts())


def listed() -> str:
    """The families' names as a sentence has them: ``sd1, sd2 or sdxl``."""
    *others, last = FAMILIES
    return f"{', '.join(others)} or {last}" if others else last


def _has_marks(unet: Mapping[str, Any], marks: Mapping[str, Any]) -> bool:
    return all(unet.get(key) == value for key, value in marks.items())


def _has_tensors(dimensions: Mapping[str, int], marks: Mapping[str, int | None]) -> bool:
    for beginning, wanted in marks.items():
        found = [number for name, number in dimensions.items() if name.startswith(beginning)]
        if not found or (wanted is not None and wanted not in found):
            return False
    return True


def _depth(words: list[str]) -> int:
    """The number of a name's transformer layer, counted from 1; 0: it has none."""
    place = words.index("transformer_blocks") + 1 if "transformer_blocks" in words[:-1] else 0
    return int(words[place]) + 1 if place and words[place].isdigit() else 0


def lacking_prefixes(names: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """Those of ``wanted`` that no name begins with."""
    known = list(names)
    found = []
    for prefix in wanted:
        if not any(name.startswith(prefix) for name in known):
            found.append(prefix)
    return found
