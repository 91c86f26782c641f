"""Hypernetworks as in A1111: a small network before the keys and one before the values of attention layers.

k = to_k(H_k(x)) and v = to_v(H_v(x)) with H(x) = x + strength · stack(x); queries do not change. A pair (H_k, H_v)
belongs to a width: every attention layer whose input x has this width uses it. In SD 1.5, that is 768 for the text in
all cross-attention layers, and 320, 640 and 1280 for the picture in the self-attention layers of each level.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from etude.base.base import Base
from etude.core.errors import BaseError, FormatError
from etude.core.method import own_name

METHOD = own_name(__name__)
Networks = nn.ModuleDict  # "<width>" → {"k": stack, "v": stack}
SIDES = ("k", "v")
DEVIATION = 0.01  # standard deviation of A1111's normal initialisation
# activations of torch that need arguments, halve the width, or mix the pictures of a batch
UNFIT = {"threshold", "multiheadattention", "glu", "softmax", "softmin", "softmax2d", "logsoftmax"}


@dataclass(frozen=True)
class Design:
    """The architecture that the networks of one hypernetwork share."""

    structure: Sequence[float]  # widths as multiples of x's width, first and last are 1; products are rounded down
    activation: str  # A1111's name: linear, swish (Hardswish), or a class of torch.nn in lower case
    activate_output: bool  # also after the last layer
    layer_norm: bool  # after every layer and its activation
    dropout: Sequence[float] = ()  # dropout for each place of `structure`; empty: none


def input_widths(unet: nn.Module) -> list[int]:
    """The widths of the inputs of keys and values in a UNet, in ascending order."""
    return sorted({attention.to_k.in_features for attention in _attentions(unet)})


def make_networks(widths: Iterable[int], design: Design) -> Networks:
    """Networks for these widths, with torch's initialisation (then use `initialise`). A tensor's name is, for example,
    ``768.k.0.linear.weight``.

    Raises FormatError for an unknown activation, and for a multiple so small that a width would be 0.
    """
    networks = nn.ModuleDict()
    for width in widths:
        networks[str(width)] = nn.ModuleDict({side: _stack(width, design) for side in SIDES})
    return networks


@torch.no_grad()
def initialise(networks: Networks, initial: str, activation: str, unit_gain: bool) -> None:
    """Initialise as A1111 does; biases are 0. ``initial``: Normal (σ = 0.01) or {Xavier,Kaiming}{Uniform,Normal}.

    The gains of layer norms are drawn from N(0, 0.01) for every ``initial``, so that a stack's output is near 0 at the
    start; with ``unit_gain`` they are 1, as usual.
    """
    slope: Literal["leaky_relu", "relu"] = "leaky_relu" if activation == "leakyrelu" else "relu"
    draw: Callable[[Tensor], Any] = {
        "Normal": lambda weight: nn.init.normal_(weight, std=DEVIATION),
        "XavierUniform": nn.init.xavier_uniform_,
        "XavierNormal": nn.init.xavier_normal_,
        "KaimingUniform": lambda weight: nn.init.kaiming_uniform_(weight, nonlinearity=slope),
        "KaimingNormal": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity=slope),
    }[initial]
    for layer in networks.modules():
        if isinstance(layer, nn.Linear):
            draw(layer.weight)
            layer.bias.zero_()
        elif isinstance(layer, nn.LayerNorm):
            layer.bias.zero_()
            if unit_gain:
                layer.weight.fill_(1.0)
            else:
                nn.init.normal_(layer.weight, std=DEVIATION)


def restored(tensors: Mapping[str, Tensor], design: Design, base: Base) -> Networks:
    """Networks with these tensors, frozen, on the base's device, in float32 or wider; raises FormatError."""
    dtype = torch.promote_types(base.dtype, torch.float32)
    widths = sorted({int(name.partition(".")[0]) for name in tensors})
    with torch.device("meta"):
        networks = make_networks(widths, design)
    values = {name: tensor.to(base.device, dtype) for name, tensor in tensors.items()}
    try:
        networks.load_state_dict(values, assign=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        fault = f"its tensors do not fit the structure {list(design.structure)} ({reason})"
        raise FormatError(METHOD, fault, "use a file that is complete") from error
    return networks.requires_grad_(False).eval()


@contextmanager
def before_keys_and_values(base: Base, networks: Networks, strength: float = 1.0) -> Iterator[Base]:
    """Add the networks to the base; on exit they are removed. Nested contexts give H₂(H₁(x)), like A1111's chains.

    Raises BaseError if the base has no attention layer with any of their widths.
    """
    with ExitStack() as undo:
        applied = False
        for attention in _attentions(base.unet):
            for side, layer in zip(SIDES, (attention.to_k, attention.to_v), strict=True):
                if str(layer.in_features) in networks:
                    stack = networks[str(layer.in_features)][side]  # type: ignore[index]
                    undo.callback(layer.register_forward_pre_hook(_through(stack, strength)).remove)
                    applied = True
        if not applied:
            widths = ", ".join(networks)
            action = "apply it to a base of the family and size that it was trained on"
            raise BaseError(base.path, f"has no attention whose input has a width of {widths}", action)
        yield base


def _attentions(unet: nn.Module) -> Iterator[Any]:
    return (module for name, module in unet.named_modules() if name.endswith((".attn1", ".attn2")))


def _stack(width: int, design: Design) -> nn.Sequential:
    widths = [int(width * multiple) for multiple in design.structure]
    if 0 in widths:
        fault = f"its structure {list(design.structure)} reduces a width of {width} to 0"
        raise FormatError(METHOD, fault, "use another file")
    dropout = [*design.dropout[1:]] or [0.0] * len(widths)
    layers = []
    for number, (inner, outer) in enumerate(pairwise(widths)):
        last = number == len(widths) - 2
        members: dict[str, nn.Module] = {"linear": nn.Linear(inner, outer)}
        if design.activation != "linear" and (design.activate_output or not last):
            members["activation"] = _activation(design.activation)
        if design.layer_norm:
            members["norm"] = nn.LayerNorm(outer)
        if dropout[number]:
            members["dropout"] = nn.Dropout(dropout[number])
        layers.append(nn.Sequential(OrderedDict(members)))
    return nn.Sequential(*layers)


def _activation(name: str) -> nn.Module:
    activations = nn.modules.activation
    classes = {name.lower(): getattr(activations, name) for name in activations.__all__}
    kind = classes.get("hardswish" if name == "swish" else name)
    if kind is None or name in UNFIT:
        raise FormatError(METHOD, f"its activation `{name}` is not supported", "use another file")
    module: nn.Module = kind()
    return module


def _through(stack: nn.Module, strength: float) -> Callable[..., tuple[Any, ...]]:
    """A forward pre-hook: x → x + strength · stack(x), computed in the stack's precision."""

    def change(_layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x = inputs[0].to(next(stack.parameters()).dtype)
        return ((x + strength * stack(x)).to(inputs[0].dtype), *inputs[1:])

    return change
