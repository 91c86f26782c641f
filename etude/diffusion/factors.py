"""The change of a weight by the factors of a LoRA or a related method. Factors have LyCORIS's names.

s = α/r, r is the rank, ∘ the Hadamard product and ⊗ the Kronecker product:

- LoRA, LoCon: ΔW = s · B·A with ``lora_A.weight`` [r, in(, k, k)] and ``lora_B.weight`` [out, r(, 1, 1)]; a
  ``lora_mid.weight`` [r, r, k, k] is the core of a convolution; then A is [r, in, 1, 1]
- LoHa (arXiv:2108.06098): ΔW = s · (w1_a·w1_b) ∘ (w2_a·w2_b), ``hada_…``; cores of convolutions are ``t1`` and ``t2``
- LoKr (arXiv:2309.14859): ΔW = s · w1 ⊗ w2, ``lokr_…``, each whole or w_a·w_b, w2 also with a core ``t2``; if both
  are whole there is no rank, and s = 1
- the whole difference: ΔW = ``diff``
- DoRA (arXiv:2402.09353), with any of these: W' = m · (W + ΔW)/‖W + ΔW‖ with ``dora_scale`` m: [out, 1, …] for rows,
  as in peft and LyCORIS, or [1, in, …] for columns
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from etude.base.base import Base
from etude.core.errors import BaseError, FormatError
from etude.diffusion.hooks import replaced_weights
from etude.diffusion.weights import parts_of

Factors = Mapping[str, Tensor]  # the factors of one layer, by name
_FACTOR = re.compile(r"\.(lora_(?:A|B|mid)\.weight|hada_\w+|lokr_\w+|dora_scale|diff)$")
_RANKED = ("lora_A.weight", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")  # their first size is the rank
PAIR = {"lora_A.weight", "lora_B.weight"}


def by_layer(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The factors of each ``<part>.<module>``."""
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        if match := _FACTOR.search(name):
            layers[name[: match.start()]][match[1]] = tensor
    return dict(layers)


def rank_of(factors: Factors) -> int | None:
    """The rank r; None if there is none."""
    return next((len(factors[name]) for name in _RANKED if name in factors), None)


def change(layer: str, factors: Factors, alpha: float, weight: Tensor) -> Tensor:
    """W' - W of a weight W [out, in(, k, k)], in float32 or wider; raises FormatError if sizes do not fit."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    cast = {name: tensor.to(weight.device, wide) for name, tensor in factors.items()}
    own, rank = weight.detach().to(wide), rank_of(factors)
    try:
        delta = _difference(cast).flatten(1)
    except (KeyError, RuntimeError) as error:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in sorted(factors.items()))
        raise FormatError("LoRA", f"the factors of `{layer}` do not fit: {shapes}", "fetch the file again") from error
    if delta.shape != own.flatten(1).shape:
        fault = f"`{layer}` is changed by {list(delta.shape)} values, the base has {list(own.shape)} there"
        raise FormatError("LoRA", fault, "apply it to a base of the family and size that it was trained on")
    delta = (delta if rank is None else alpha / rank * delta).view_as(own)
    return _decomposed(own, delta, cast["dora_scale"]) if "dora_scale" in cast else delta


def _difference(f: Factors) -> Tensor:
    """ΔW / s; it may be flattened."""
    if "diff" in f:
        return f["diff"]
    if "lora_mid.weight" in f:
        return _core(f["lora_mid.weight"], f["lora_B.weight"].flatten(1).T, f["lora_A.weight"].flatten(1))
    if "lora_A.weight" in f:
        return f["lora_B.weight"].flatten(1) @ f["lora_A.weight"].flatten(1)
    if "hada_w1_a" in f:
        return _product(f, "hada_w1", "hada_t1") * _product(f, "hada_w2", "hada_t2")
    one, other = _product(f, "lokr_w1", ""), _product(f, "lokr_w2", "lokr_t2")
    return torch.kron(one[..., None, None] if other.ndim == 4 else one, other.contiguous())


def _product(f: Factors, name: str, core: str) -> Tensor:
    """A whole factor, or the product of two, with or without a core between them."""
    if name in f:
        return f[name]
    left, right = f[f"{name}_a"], f[f"{name}_b"]
    return _core(f[core], left, right) if core in f else left @ right


def _core(core: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """The product [out, in, k, k] of [r, out], the core [r, r, k, k] and [r, in]."""
    return torch.einsum("rskl,ro,si->oikl", core, left, right)


def _decomposed(own: Tensor, delta: Tensor, magnitude: Tensor) -> Tensor:
    changed = own + delta
    kept = 0 if len(magnitude) == len(own) and magnitude[0].numel() == 1 else 1
    others = [axis for axis in range(own.ndim) if axis != kept]
    norm: Tensor = torch.linalg.vector_norm(changed, dim=others, keepdim=True)
    return changed * (magnitude / norm) - own


@contextmanager
def added(base: Base, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], strength: float) -> Iterator[Base]:
    """The base with W + ``strength`` · (W' - W); on exit, the weights are exactly as before.

    Weights in float32 are replaced. In half precision a small change of a large weight would be lost by rounding, so
    the change is added to the layer's output instead. Raises BaseError for layers that the base does not have.
    """
    alphas, layers = facts.get("alphas", {}), by_layer(tensors)
    with ExitStack() as undo:
        for part, module in parts_of(base).items():
            found = {f"{part}.{name.removeprefix('text_model.')}": name for name, _ in module.named_modules()}
            weights = {}
            for full in [full for full in layers if full.startswith(f"{part}.")]:
                layer: Any = module.get_submodule(found[full]) if full in found else None
                if not isinstance(getattr(layer, "weight", None), Tensor):
                    action = "apply it to a base of the family and size that it was trained on"
                    raise BaseError(base.path, f"has no layer `{full}`, which this LoRA changes", action)
                alpha = float(alphas.get(full, facts["alpha"]))
                if layer.weight.dtype.itemsize < 4:
                    beside = _beside(full, layers[full], alpha, layer.weight, strength)
                    undo.callback(layer.register_forward_hook(beside).remove)
                else:
                    delta = change(full, layers[full], alpha, layer.weight)
                    weights[f"{found[full]}.weight"] = layer.weight + strength * delta
            undo.enter_context(replaced_weights(module, weights))
        yield base


def _beside(full: str, factors: Factors, alpha: float, weight: Tensor, strength: float) -> Callable[..., Tensor]:
    """A forward hook that adds ΔW·x to a layer's output: with the two matrices of a pair, else with one matrix."""
    steps = [strength * change(full, factors, alpha, weight)]
    if set(factors) == PAIR:
        down, up = (factors[name].to(weight.device, steps[0].dtype) for name in ("lora_A.weight", "lora_B.weight"))
        flat = up.flatten(1)
        steps = [down.reshape(len(down), *weight.shape[1:]), strength * alpha / len(down) * flat]
        steps[1] = steps[1].reshape(*flat.shape, *[1] * (weight.ndim - 2))
    steps = [step.to(weight) for step in steps]

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0]
        for number, step in enumerate(steps):
            if not isinstance(layer, nn.Conv2d):
                x = linear(x, step)
            elif number:
                x = conv2d(x, step)
            else:
                x = conv2d(x, step, stride=layer.stride, padding=layer.padding)
        return output + x

    return add
