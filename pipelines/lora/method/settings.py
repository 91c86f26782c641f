"""The schema of the method's params.yaml."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from etude.base.settings import KeepsClass
from etude.core.errors import ArgumentError
from etude.core.factors import RANKED, by_layer
from etude.core.families import learned_parts, text_parts
from etude.core.method import own_name
from etude.core.mixins import TrainsText
from etude.core.params import nearest, refuse_twice
from etude.training.masks import MaskedLoss
from etude.training.preview import HasPreview
from etude.training.sets import FurtherSets
from etude.training.sizes import TellsSizes
from etude.training.start import Start, Starts
from etude.training.tags import LearnsCaptions

if TYPE_CHECKING:
    from torch import nn

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


class Params(LearnsCaptions, TrainsText, KeepsClass, TellsSizes, MaskedLoss, Starts, HasPreview, FurtherSets):
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
            raise ValueError(
                f"`plus` {self.plus:g} changes the rate of the matrix B, which {self.kind} does not have: write 1.0"
            )
        if self.factor in (0, 1):
            raise ValueError(
                f"`factor` {self.factor} does not split a matrix: write -1 for factors of similar size, or 2 or more"
            )
        return self

    def image_sets(self) -> list[str]:
        """The sets that are learned, and those of real class images."""
        return [*super().image_sets(), *self.class_images.real]

    def pointed(self, images: str, word: str, kind: str) -> dict[str, Any]:
        """Class images are set to the class ``kind``, unless a prompt contains it: then they already show this class.

        Raises ArgumentError for another set without a class, if class images are learned.
        """
        values, prompts, other = super().pointed(images, word, kind), self.class_images.prompts, images != self.set
        if not kind and other and self.prior_weight:
            method = own_name(__name__)
            fault = f"is needed: {method} also learns class images, and those in its params.yaml are of another set"
            action = (
                "add what the pictures show, such as `--class dog`, "
                f"or first set `prior_weight: 0` in pipelines/{method}/params.yaml"
            )
            raise ArgumentError("--class", fault, action)
        if not kind or any(re.search(rf"(?<!\w){re.escape(kind)}(?!\w)", prompt) for prompt in prompts):
            return values
        if prompts:
            values["class_images.prompts"] = [kind]
        if prompts or other:
            values["class_images.real"] = []
        return values

    def layer_rank(self, layer: str) -> int:
        """The rank of ``<part>.<module>``: that of the innermost block of `blocks` that contains it, else ``rank``."""
        blocks = [block for block in self.blocks if f"{layer}.".startswith(f"{block}.")]
        return self.blocks[max(blocks, key=len)] if blocks else self.rank

    def chosen(self, module: nn.Module) -> list[str]:
        """The layers of a part that belong to `targets`."""
        pattern = re.compile(rf"(.*\.)?({'|'.join(TARGETS[target] for target in self.targets)})")
        return [name for name, _ in module.named_modules() if pattern.fullmatch(name)]

    def ranks(self, part: str, module: nn.Module) -> dict[str, int]:
        """The layers of a part that are trained, with their ranks."""
        ranks = {name: self.layer_rank(place(part, name)) for name in self.chosen(module)}
        return {name: rank for name, rank in ranks.items() if rank}

    def misfits(self, start: Start, parts: Mapping[str, nn.Module]) -> Iterator[str]:
        """Compare the kind of the change, its layers, and the rank and the alpha of each."""
        layers, kind = by_layer(start.shapes), _kind(start.shapes)
        if kind != self.kind:
            yield f"is of the kind {kind}, and `kind` is {self.kind}"
        wanted: dict[str, int] = {}
        for part, module in parts.items():
            if part == "unet" or self.text_encoder_rate:
                wanted |= {place(part, name): rank for name, rank in self.ranks(part, module).items()}
        if lacking := wanted.keys() - layers:
            yield f"does not change {len(lacking)} layers that are trained here, such as `{min(lacking)}`"
        if others := layers.keys() - wanted:
            yield f"also changes {len(others)} layers that are not trained here, such as `{min(others)}`"
        facts = start.facts
        for layer, rank in wanted.items():
            found = next((layers[layer][name][0] for name in RANKED if name in layers[layer]), rank)
            if found != rank:
                yield f"has rank {found} in `{layer}`, where the params say {rank}"
            alpha = self.alpha * rank / self.rank
            own = facts.get("alphas", {}).get(layer, facts.get("alpha", alpha))
            if own != alpha:
                yield f"has alpha {own:g} in `{layer}`, where the params say {alpha:g}"


def place(part: str, name: str) -> str:
    """A module's name in `blocks`, and in artifacts."""
    return f"{part}.{name.removeprefix('text_model.')}".removesuffix(".")


def _kind(names: Iterable[str]) -> str:
    text = " ".join(names)
    marks = {"dora_scale": "dora", "hada_": "loha", "lokr_": "lokr", "lora_": "lora"}
    return next((kind for mark, kind in marks.items() if f".{mark}" in text), "another one")
