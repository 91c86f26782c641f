"""LoRA: a low-rank change to the attention weights (Hu et al., 2021, arXiv:2106.09685).

W' = W + strength · α/r · B·A, with A [r, in] random and B [out, r] zero at the start; only A and B are trained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from etude.params import MethodParams
from etude.training.plan import Optimization
from etude.training.preview import Preview

if TYPE_CHECKING:
    from torch import Tensor, nn

    from etude.artifact import Artifact
    from etude.diffusion.base import Base
    from etude.training.batches import Batch, Captions, Images
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


class Params(MethodParams):
    """pipelines/lora/params.yaml."""

    rank: PositiveInt
    alpha: PositiveFloat
    targets: list[Literal["attention", "feed_forward", "projection", "resnet"]] = Field(min_length=1)
    initial: Literal["gaussian", "kaiming"]
    dropout: float = Field(ge=0, lt=1)
    text_encoder_rate: NonNegativeFloat
    caption: str = Field(pattern=r"\[caption\]|\[name\]", description="a text with [caption] or [name] in it")
    caption_dropout: float = Field(ge=0, lt=1)
    clip_skip: int = Field(ge=0, le=10)
    save: Literal["fp32", "fp16", "bf16"]
    training: Optimization
    preview: Preview


def build(*, base: Base, images: Images, captions: Captions, params: Params, report: Report) -> Artifact:
    """Train the pairs; the text encoders learn too when ``text_encoder_rate`` is above 0."""
    from etude.artifact import Artifact
    from etude.training import conditioning
    from etude.training.batches import Batches
    from etude.training.denoising import denoising_loss
    from etude.training.fit import fit
    from etude.training.learned import groups, saved

    plan, learn_text = params.training, params.text_encoder_rate > 0
    captions = conditioning.reworded(base, captions, params.caption, params.name, params.clip_skip)
    batches = Batches(images, captions, batch_size=plan.batch_size, seed=report.seed, device=str(base.device))
    facts: dict[str, Any] = {"name": params.name, "rank": params.rank, "alpha": params.alpha}
    facts |= {"images": len(images.names), "tags": dict(Counter(captions.texts[name] for name in images.names))}
    with _inserted(base, params, report.seed) as pairs:

        def now() -> Artifact:
            return Artifact("lora", saved(pairs, params.save), facts)

        def loss(batch: Batch) -> Tensor:
            if learn_text:
                text = conditioning.live(base, batch, params.caption_dropout, params.clip_skip)
            else:
                text = conditioning.cached(batch, captions.empty, params.caption_dropout)
            return denoising_loss(base, batch.mean, batch.logvar, text, plan)

        report.artifact = now
        fit(groups(pairs, params.text_encoder_rate), loss, batches, plan, report)
        return now()


@contextmanager
def apply(artifact: Artifact, base: Base, strength: float = 1.0) -> Iterator[Base]:
    """Add the change, ``strength`` times; leaving brings back the very same weights.

    Weights are replaced where they have the room. In half precision, where a small change of a large weight would be
    rounded away, the change is computed beside them.
    """
    from etude.diffusion.hooks import replaced_weights
    from etude.diffusion.weights import parts_of

    with ExitStack() as undo:
        for part, module in parts_of(base).items():
            weights = {}
            for name, layer, down, up in _layers(artifact, base, part, module):
                if layer.weight.dtype.itemsize < 4:
                    undo.callback(layer.register_forward_hook(_beside(down, strength * up)).remove)
                else:
                    delta = (up.flatten(1) @ down.flatten(1)).view_as(layer.weight)
                    weights[f"{name}.weight"] = layer.weight + strength * delta
            undo.enter_context(replaced_weights(module, weights))
        yield base


def _short(name: str) -> str:
    """A layer's name without the prefix that some versions of transformers give to CLIP's layers."""
    return name.removeprefix("text_model.")


@contextmanager
def _inserted(base: Base, params: Params, seed: int) -> Iterator[dict[str, Tensor]]:
    """peft's layers inside the base, removed on leaving: A and B by their names in the artifact, leaves in float32."""
    import torch
    from peft import LoraConfig, LoraModel

    from etude.diffusion.weights import parts_of
    from etude.training.randomness import mix

    config = LoraConfig(
        r=params.rank,
        lora_alpha=params.alpha,
        lora_dropout=params.dropout,
        target_modules=rf"(.*\.)?({'|'.join(TARGETS[target] for target in params.targets)})",
        init_lora_weights="gaussian" if params.initial == "gaussian" else True,  # N(0, 1/r), or Kaiming uniform
    )
    parts = parts_of(base) if params.text_encoder_rate else {"unet": base.unet}
    tuners = []
    try:
        torch.manual_seed(mix(seed, "lora"))  # peft draws A from the CPU's global generator
        pairs = {}
        for part, module in parts.items():
            tuners.append(LoraModel(module, config, "default"))
            for name, parameter in module.named_parameters():
                if ".lora_" in name:
                    parameter.data = parameter.data.float()
                    pairs[f"{part}.{_short(name).replace('.default.', '.')}"] = parameter
        yield pairs
    finally:
        for tuner in tuners:
            tuner.unload()


def _layers(artifact: Artifact, base: Base, part: str, module: nn.Module) -> Iterator[tuple[str, Any, Tensor, Tensor]]:
    """Name, layer, A and α/r · B of every layer of ``module`` that the artifact changes, in the layer's precision."""
    from etude.errors import BaseError

    alphas = artifact.facts.get("alphas", {})  # of single layers, in files that others made
    layers = {f"{part}.{_short(name)}": (name, layer) for name, layer in module.named_modules()}
    for key, down in artifact.tensors.items():
        full = key.removesuffix(".lora_A.weight")
        if full == key or not key.startswith(f"{part}."):
            continue
        up = artifact.tensors[f"{full}.lora_B.weight"]
        name, layer = layers.get(full, ("", None))
        weight = getattr(layer, "weight", None)
        if layer is None or weight is None or weight.shape != (len(up), *down.shape[1:]):
            action = "apply it to a base of the family and size that it was trained on"
            raise BaseError(base.path, f"has no layer `{full}` of the shape that this LoRA changes", action)
        scale = alphas.get(full, artifact.facts["alpha"]) / len(down)
        yield name, layer, down.to(weight), (scale * up.to(weight.device).double()).to(weight)


def _beside(down: Tensor, up: Tensor) -> Callable[..., Tensor]:
    """A forward hook: y + B·A·x, for linear layers and convolutions."""
    from torch.nn.functional import conv2d, linear

    def add(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if down.ndim == 4:
            return output + conv2d(conv2d(inputs[0], down, stride=layer.stride, padding=layer.padding), up)
        return output + linear(linear(inputs[0], down), up)

    return add
