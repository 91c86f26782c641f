"""The schema of the method's params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from etude.core.families import learned_parts, text_parts
from etude.core.mixins import Captioned, TrainsText
from etude.core.params import MethodParams, nearest, refuse_twice
from etude.training.plan import Trained
from etude.training.preview import HasPreview

TARGETS = {  # patterns for the ends of layer names, in the UNet and in CLIP's text encoder
    "attention": r"attn[12]\.to_[qkv]|attn[12]\.to_out\.0|self_attn\.[qkv]_proj|self_attn\.out_proj",
    "feed_forward": r"ff\.net\.0\.proj|ff\.net\.2|mlp\.fc[12]",
    "projection": r"proj_in|proj_out",
    "resnet": r"resnets\.\d\.(conv1|conv2|conv_shortcut|time_emb_proj)|(down|up)samplers\.0\.conv",
}


def places() -> list[str]:
    """The parts of all families whose layers can be trained."""
    return [
        *(f"unet.{side}" for side in ("down_blocks", "mid_block", "up_blocks")),
        *(f"{p}.encoder" for p in text_parts()),
    ]


class Params(Captioned, TrainsText, Trained, HasPreview, MethodParams):
    """The method's params.yaml."""

    kind: Literal["lora", "dora", "loha", "lokr"]
    rank: int = Field(ge=1, le=1024)
    alpha: float = Field(gt=0, le=10_000)
    blocks: dict[str, Annotated[int, Field(ge=0, le=1024)]]
    factor: int = Field(ge=-1, le=1024)
    targets: list[Literal["attention", "feed_forward", "projection", "resnet"]] = Field(min_length=1)
    initial: Literal["gaussian", "kaiming"]
    dropout: float = Field(ge=0, lt=1)
    plus: float = Field(gt=0, le=1000)
    caption_dropout: float = Field(ge=0, lt=1)
    clip_skip: int = Field(ge=0, le=10)
    save: Literal["fp32", "fp16", "bf16"]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        refuse_twice(targets=self.targets)
        for block in self.blocks:
            place = ".".join(block.split(".")[:2])
            if place not in (*places(), *learned_parts()):
                raise ValueError(f"`blocks` has `{block}`, where no layer can be trained{nearest(place, places())}")
        if not self.text_encoder_rate and (idle := [block for block in self.blocks if block.startswith("text")]):
            raise ValueError(f"`blocks` has `{idle[0]}`, but `text_encoder_rate` 0.0 does not train text encoders")
        if self.plus != 1 and self.kind not in ("lora", "dora"):
            raise ValueError(f"`plus` {self.plus:g} is for B, which {self.kind} does not have: write 1.0")
        if self.factor in (0, 1):
            raise ValueError(
                f"`factor` {self.factor} does not split: write -1 for factors of similar size, or 2 or more"
            )
        return self
