"""peft's layers in a base, and their parameters by their names in an artifact."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import LoHaConfig, LoHaModel, LoKrConfig, LoKrModel, LoraConfig, LoraModel
from peft.tuners.lokr import LoKrLayer
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from etude.base.base import Base
from etude.core.errors import BaseError, ParamsError
from etude.core.method import own_name
from etude.core.params import nearest
from etude.core.randomness import mix
from etude.diffusion.weights import parts_of

from .settings import Params, place

METHOD = own_name(__name__)
_OWN = re.compile(r"\.(lora_|hada_|lokr_)")


@contextmanager
def inserted(base: Base, params: Params, seed: int) -> Iterator[dict[str, Tensor]]:
    """Insert peft's layers; on exit they are removed. Yields their parameters by name, leaves in float32.

    Raises BaseError for an unknown block.
    """
    _check_blocks(base, params)
    parts = {part: module for part, module in parts_of(base).items() if part == "unet" or params.text_encoder_rate}
    tuners: list[Any] = []
    try:
        torch.manual_seed(mix(seed, METHOD))  # peft draws from the CPU's global generator
        parameters: dict[str, Tensor] = {}
        for part, module in parts.items():
            if ranks := params.ranks(part, module):
                tuners.append(_tuned(module, params, ranks))
                if params.kind == "lora" and not params.dropout:
                    shorten(module)
            for name, parameter in module.named_parameters():
                if _OWN.search(name):
                    parameter.data = parameter.data.float()
                    parameters[f"{part}.{_named(name)}"] = parameter
        if not parameters:
            raise ParamsError(
                f"pipelines/{METHOD}/params.yaml", "`blocks` leaves no layer to train", "set a rank in it above 0"
            )
        yield parameters
    finally:
        for tuner in tuners:
            tuner.unload()


def shorten(module: nn.Module) -> None:
    """Leave out of peft's layers what changes no bit: casts that are undone at once, a dropout of 0, a scale of 1."""
    for layer in module.modules():
        if isinstance(layer, LoraLayer):
            layer.forward = _short(layer)  # removed together with the layer


def _short(layer: Any) -> Callable[..., Tensor]:
    """The output W x + s · B A x of a layer; if precisions differ, peft computes it."""
    plain, base, scale = layer.forward, layer.base_layer, layer.scaling["default"]
    a, b = layer.lora_A["default"], layer.lora_B["default"]

    def forward(x: Tensor, *rest: Any, **settings: Any) -> Tensor:
        if x.dtype != a.weight.dtype and not torch.is_autocast_enabled(x.device.type):
            return cast(Tensor, plain(x, *rest, **settings))
        result = base(x, *rest, **settings)  # first, as in peft: gradients are added up in this order
        change = b(a(x))
        return cast(Tensor, result + (change if scale == 1 else change * scale))

    return forward


def saved_form(name: str, tensor: Tensor) -> Tensor:
    """DoRA's magnitude in LyCORIS's shape [out, 1] or [out, 1, 1, 1]; peft's shape is [out] or [1, out, 1, 1]."""
    if not name.endswith(".dora_scale"):
        return tensor
    return tensor[:, None] if tensor.ndim == 1 else tensor.transpose(0, 1)


def alphas(names: Sequence[str], params: Params) -> dict[str, float]:
    """The alpha of each layer whose rank is not ``rank``, so that its scale is ``alpha`` / ``rank`` too."""
    layers = {match.group(1) for name in names if (match := re.match(r"(.+?)\.(lora|hada|lokr)_", name))}
    ranks = {layer: params.layer_rank(layer) for layer in sorted(layers)}
    return {layer: params.alpha * rank / params.rank for layer, rank in ranks.items() if rank != params.rank}


def _check_blocks(base: Base, params: Params) -> None:
    """Raises BaseError for a block that does not exist, and for one without a target layer."""
    parts = parts_of(base).items() if params.blocks else ()
    modules = [place(part, name) for part, module in parts for name, _ in module.named_modules()]
    layers = [place(part, name) for part, module in parts for name in params.chosen(module)]
    for block in params.blocks:
        if block not in modules:
            action = "write a part or a block of the base, such as unet.mid_block or text_encoder.encoder.layers.3"
            raise BaseError(base.path, f"has no `{block}`, which `blocks` names{nearest(block, modules)}", action)
        if not any(f"{layer}.".startswith(f"{block}.") for layer in layers):
            fault = f"has no layer of `targets` in `{block}`, which `blocks` names"
            raise BaseError(base.path, fault, "change `targets`, or write another block in `blocks`")


def _named(name: str) -> str:
    """A parameter's name in an artifact, from peft's name."""
    short = name.removeprefix("text_model.").replace(".default", "")
    return short.replace("lora_magnitude_vector.weight", "dora_scale")


def _tuned(module: nn.Module, params: Params, ranks: Mapping[str, int]) -> Any:
    """Insert peft's layers into the module; returns peft's tuner."""
    others = {re.escape(name): rank for name, rank in ranks.items() if rank != params.rank}
    shared: dict[str, Any] = {
        "r": params.rank,
        "target_modules": "|".join(map(re.escape, ranks)),
        "rank_pattern": others,
        "alpha_pattern": {name: params.alpha * rank / params.rank for name, rank in others.items()},
    }
    if params.kind in ("lora", "dora"):
        start = "gaussian" if params.initial == "gaussian" else True  # N(0, 1/r), or Kaiming uniform
        shared |= {"lora_alpha": params.alpha, "lora_dropout": params.dropout, "init_lora_weights": start}
        return LoraModel(module, LoraConfig(**shared, use_dora=params.kind == "dora"), "default")
    shared |= {"alpha": params.alpha, "rank_dropout": params.dropout}
    if params.kind == "loha":
        return LoHaModel(module, LoHaConfig(**shared), "default")
    tuner = LoKrModel(module, LoKrConfig(**shared, decompose_factor=params.factor), "default")
    for layer in module.modules():
        if isinstance(layer, LoKrLayer) and layer.lokr_w1 and layer.lokr_w2:
            layer.scaling["default"] = 1.0  # whole factors have no rank, so programs use no scale
    return tuner
