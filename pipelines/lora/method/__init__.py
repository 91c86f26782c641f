"""LoRA: a low-rank change to the attention weights (Hu et al., 2021, arXiv:2106.09685), and its kin: DoRA, LoHa, LoKr.

W' = W + strength · α/r · B·A, with A [r, in] random and B [out, r] zero at the start; only A and B are trained. What
the kin make of their factors is told in `etude.diffusion.factors`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from etude.core.params import MethodParams, Scale, nearest, refuse_twice
from etude.training.plan import Optimization
from etude.training.preview import Preview

if TYPE_CHECKING:
    from torch import Tensor

    from etude.base.base import Base
    from etude.core.artifact import Artifact
    from etude.training.batches import Batch, Captions, Images
    from etude.training.fit import Group
    from etude.training.report import Report

bases = ("sd1", "sd2", "sdxl")
formats = ("kohya_lora", "diffusers_lora")
axes = {"strength": 1.0}

TARGETS = {  # ends of the names of layers in the UNet and in CLIP's text encoder
    "attention": r"attn[12]\.to_[qkv]|attn[12]\.to_out\.0|self_attn\.[qkv]_proj|self_attn\.out_proj",
    "feed_forward": r"ff\.net\.0\.proj|ff\.net\.2|mlp\.fc[12]",
    "projection": r"proj_in|proj_out",
    "resnet": r"resnets\.\d\.(conv1|conv2|conv_shortcut|time_emb_proj)|(down|up)samplers\.0\.conv",
}


PLACES = ("unet.down_blocks", "unet.mid_block", "unet.up_blocks", "text_encoder.encoder", "text_encoder_2.encoder")


class Params(MethodParams):
    """pipelines/lora/params.yaml."""

    kind: Literal["lora", "dora", "loha", "lokr"]
    rank: int = Field(ge=1, le=1024)
    alpha: float = Field(gt=0, le=10_000)
    blocks: dict[str, Annotated[int, Field(ge=0, le=1024)]]
    factor: int = Field(ge=-1, le=1024)
    targets: list[Literal["attention", "feed_forward", "projection", "resnet"]] = Field(min_length=1)
    initial: Literal["gaussian", "kaiming"]
    dropout: float = Field(ge=0, lt=1)
    text_encoder_rate: Scale
    plus: float = Field(gt=0, le=1000)
    caption: str = Field(pattern=r"\[caption\]|\[name\]", description="a text with [caption] or [name] in it")
    caption_dropout: float = Field(ge=0, lt=1)
    clip_skip: int = Field(ge=0, le=10)
    save: Literal["fp32", "fp16", "bf16"]
    training: Optimization
    preview: Preview

    @model_validator(mode="after")
    def _possible(self) -> Self:
        refuse_twice(targets=self.targets)
        for block in self.blocks:
            place = ".".join(block.split(".")[:2])
            if place not in (*PLACES, "unet", "text_encoder", "text_encoder_2"):
                raise ValueError(f"`blocks` has `{block}`, where nothing learns{nearest(place, PLACES)}")
        if not self.text_encoder_rate and (idle := [block for block in self.blocks if block.startswith("text")]):
            raise ValueError(f"`blocks` has `{idle[0]}`, but `text_encoder_rate` 0.0 leaves text encoders as they are")
        if self.plus != 1 and self.kind not in ("lora", "dora"):
            raise ValueError(f"`plus` {self.plus:g} is a rate of B, which {self.kind} has not: let it be 1.0")
        if self.factor in (0, 1):
            raise ValueError(f"`factor` {self.factor} splits nothing: -1 for halves as equal as can be, or 2 and more")
        return self


def build(*, base: Base, images: Images, captions: Captions, params: Params, report: Report) -> Artifact:
    """Train the pairs; the text encoders learn too when ``text_encoder_rate`` is above 0."""
    from etude.core.artifact import Artifact
    from etude.training import conditioning
    from etude.training.batches import Batches
    from etude.training.denoising import denoising_loss
    from etude.training.fit import fit
    from pipelines.lora.method.adapters import alphas, inserted, saved_form

    plan, learn_text = params.training, params.text_encoder_rate > 0
    captions = conditioning.reworded(base, captions, params.caption, params.word, params.clip_skip)
    batches = Batches(images, captions, batch_size=plan.batch_size, seed=report.seed, device=str(base.device))
    facts: dict[str, Any] = {"name": params.name, "rank": params.rank, "alpha": params.alpha}
    facts |= {"images": len(images.names), "tags": dict(Counter(captions.texts[name] for name in images.names))}
    facts |= {} if params.kind in ("lora", "dora") else {"formats": ["kohya_lora"]}  # diffusers has no other form
    with inserted(base, params, report.seed) as found:
        facts |= {"alphas": others} if (others := alphas(list(found), params)) else {}
        tensors = {name: saved_form(name, tensor) for name, tensor in found.items()}
        learned = Artifact("lora", tensors, facts, params.save)

        def loss(batch: Batch) -> Tensor:
            if learn_text:
                text = conditioning.live(base, batch, params.caption_dropout, params.clip_skip)
            else:
                text = conditioning.cached(batch, captions.empty, params.caption_dropout)
            return denoising_loss(base, batch.mean, batch.logvar, text, plan)

        return fit(_groups(found, params), loss, batches, plan, report, learned)


@contextmanager
def apply(artifact: Artifact, base: Base, strength: float = 1.0) -> Iterator[Base]:
    """Add the change, ``strength`` times; leaving brings back the very same weights."""
    from etude.diffusion.factors import added

    with added(base, artifact.tensors, artifact.facts, strength) as changed:
        yield changed


def _groups(found: Mapping[str, Tensor], params: Params) -> list[Group]:
    """The UNet's and the text encoders' factors at their rates; with LoRA+ those of B apart."""
    from etude.training.fit import Group
    from etude.training.rates import groups

    shared = groups(found, params.text_encoder_rate)
    if params.plus == 1:
        return shared
    halves = []
    for group in shared:
        b = {name: tensor for name, tensor in group.parameters.items() if ".lora_B." in name}
        others = {name: tensor for name, tensor in group.parameters.items() if name not in b}
        halves += [Group(others, group.rate), Group(b, group.rate * params.plus)]
    return halves
