"""The change of a weight by the factors of a LoRA or a related method. Factors have LyCORIS's names.

s = α/r, r is the rank, ∘ the Hadamard product and ⊗ the Kronecker product:

- LoRA, LoCon: ΔW = s · B·A with ``lora_A.weight`` [r, in(, k, k)] and ``lora_B.weight`` [out, r(, 1, 1)]; a
  ``lora_mid.weight`` [r, r, k, k] is the core of a convolution; then A is [r, in, 1, 1]
- LoHa (arXiv:2108.06098): ΔW = s · (w1_a·w1_b) ∘ (w2_a·w2_b), ``hada_…``; cores of convolutions are ``t1`` and ``t2``
- LoKr (arXiv:2309.14859): ΔW = s · w1 ⊗ w2, ``lokr_…``, each whole or w_a·w_b, w2 also with a core ``t2``; if both
  are whole there is no rank, and s = 1
- GLoRA (arXiv:2306.07967): ΔW = s · (W·a1·a2 + b1·b2), ``glora_…``
- OFT (arXiv:2306.07280): ΔW = (R - 1)·W, R has blocks (1 + Q)(1 - Q)⁻¹ with Q = ``oft_blocks`` - its transpose
  [blocks, k, k]; BOFT (arXiv:2311.06243): several such rotations [m, blocks, k, k], each with another grouping of rows.
  Rows are then scaled by ``oft_rescale``. α is not a scale here, but bounds ‖Q‖ by α · out (0: Q is not bounded)
- (IA)³ (arXiv:2205.05638): ΔW = W · ``ia3_in`` by columns, or ``ia3_out`` by rows
- the whole difference: ΔW = ``diff``, also for a norm; for the bias of any layer ``diff_b``
- DoRA (arXiv:2402.09353), with any of these: W' = m · (W + ΔW)/‖W + ΔW‖ with ``dora_scale`` m: [out, 1, …] for rows,
  as in peft and LyCORIS, or [1, in, …] for columns
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, embedding, group_norm, layer_norm, linear

from etude.base.base import Base
from etude.core.errors import BaseError, FormatError
from etude.core.factors import by_layer, rank_of
from etude.core.weights import refuse_infinite
from etude.diffusion.hooks import replaced_weights, to_host
from etude.diffusion.weights import parts_of

Factors = Mapping[str, Tensor]  # the factors of one layer, by name
BIAS = "diff_b"
PAIR = {"lora_A.weight", "lora_B.weight"}


def change(layer: str, factors: Factors, alpha: float, weight: Tensor) -> Tensor:
    """W' - W of a weight W [out, in(, k, k)], in float32 or wider.

    Raises FormatError if sizes do not fit, or if the change is not finite.
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    cast = {name: tensor.to(weight.device, wide) for name, tensor in factors.items()}
    own, rank = weight.detach().to(wide), rank_of(factors)
    try:
        delta = _flat(_rotation(layer, cast, alpha, own) if "oft_blocks" in cast else _difference(cast, own))
    except (KeyError, RuntimeError, IndexError, ValueError) as error:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in sorted(factors.items()))
        raise FormatError("LoRA", f"the factors of `{layer}` do not fit: {shapes}", "fetch the file again") from error
    if delta.shape != _flat(own).shape:
        wanted = list(_flat(own).shape)
        fault = f"`{layer}` has a change of shape {list(delta.shape)}, but the base's weight has {wanted}"
        raise FormatError("LoRA", fault, "apply it to a base of the family and size that it was trained on")
    delta = (delta if rank is None else alpha / rank * delta).view_as(own)
    if "dora_scale" in cast:
        delta = _decomposed(layer, own, delta, cast["dora_scale"])
    return refuse_infinite("LoRA", f"the change of `{layer}`", delta)


def bias_change(layer: str, factors: Factors, bias: Tensor | None) -> Tensor:
    """The change of a layer's bias, in float32; raises FormatError if the base has none, or one of another size."""
    delta = factors[BIAS].float()
    if bias is None or bias.shape != delta.shape:
        own = "no bias" if bias is None else f"one of {list(bias.shape)}"
        fault = f"`{layer}` changes a bias of shape {list(delta.shape)}, but the base has {own} there"
        raise FormatError("LoRA", fault, "apply it to a base of the family and size that it was trained on")
    return delta.to(bias.device)


def _flat(tensor: Tensor) -> Tensor:
    """``tensor`` as a matrix [out, values], also for a norm's weight [out]."""
    return tensor.reshape(len(tensor), -1)


def _difference(f: Factors, own: Tensor) -> Tensor:
    """ΔW / s of a weight W; it may be flattened."""
    if "diff" in f:
        return f["diff"]
    if "lora_mid.weight" in f:
        return _core(f["lora_mid.weight"], f["lora_B.weight"].flatten(1).T, f["lora_A.weight"].flatten(1))
    if "lora_A.weight" in f:
        return f["lora_B.weight"].flatten(1) @ f["lora_A.weight"].flatten(1)
    if "hada_w1_a" in f:
        return _product(f, "hada_w1", "hada_t1") * _product(f, "hada_w2", "hada_t2")
    if "glora_a1" in f:
        mixed = f["glora_a1"].flatten(1) @ f["glora_a2"].flatten(1)
        own_mixed = torch.einsum("oi...,ij->oj...", own, mixed)
        return _flat(own_mixed) + f["glora_b1"].flatten(1) @ f["glora_b2"].flatten(1)
    if "ia3_in" in f:
        return own * f["ia3_in"].reshape(1, -1, *[1] * (own.ndim - 2))
    if "ia3_out" in f:
        return own * f["ia3_out"].reshape(-1, *[1] * (own.ndim - 1))
    one, other = _product(f, "lokr_w1", ""), _product(f, "lokr_w2", "lokr_t2")
    return torch.kron(one[..., None, None] if other.ndim == 4 else one, other.contiguous())


def _rotation(layer: str, f: Factors, constraint: float, own: Tensor) -> Tensor:
    """ΔW of OFT, with one rotation of blocks of rows, and of BOFT, with several."""
    blocks = f["oft_blocks"]
    skew = blocks - blocks.transpose(-1, -2)
    if constraint > 0:
        norm = refuse_infinite("LoRA", f"the norm of `{layer}.oft_blocks`", skew.norm())  # Q would be 0
        skew = skew * (constraint * len(own) / norm.clamp(min=1e-8)).clamp(max=1)
    one = torch.eye(blocks.shape[-1], dtype=skew.dtype, device=skew.device)
    rotations = (one + skew) @ torch.linalg.inv(one - skew)
    size, rest, turned = blocks.shape[-1], own.shape[1:], own
    if blocks.ndim == 3:
        turned = torch.einsum("bij,bi...->bj...", rotations, own.reshape(len(blocks), size, *rest)).flatten(0, 1)
    else:
        for stage, rotation in enumerate(rotations):
            stride = 2**stage * (size // 2)  # distance between rows of the same block
            rows = turned.reshape(-1, 2, stride, *rest).transpose(1, 2).reshape(-1, size, *rest)
            rows = torch.einsum("bij,bj...->bi...", rotation, rows)
            turned = rows.reshape(-1, stride, 2, *rest).transpose(1, 2).reshape(own.shape)
    if "oft_rescale" in f:
        turned = turned * f["oft_rescale"].reshape(-1, *[1] * (own.ndim - 1))
    return turned - own


def _product(f: Factors, name: str, core: str) -> Tensor:
    """A whole factor, or the product of two, with or without a core between them."""
    if name in f:
        return f[name]
    left, right = f[f"{name}_a"], f[f"{name}_b"]
    return _core(f[core], left, right) if core in f else left @ right


def _core(core: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """The product [out, in, k, k] of [r, out], the core [r, r, k, k] and [r, in]."""
    return torch.einsum("rskl,ro,si->oikl", core, left, right)


def _decomposed(layer: str, own: Tensor, delta: Tensor, magnitude: Tensor) -> Tensor:
    """W' - W, where W' has the lengths ``magnitude``: of rows ([out, 1, …] or [out]) or of columns ([1, in, …])."""
    count, changed = magnitude.numel(), own + delta
    by_rows = magnitude.shape[:1] == (count,) and count == len(own)
    by_columns = magnitude.shape[:2] == (1, count) and own.shape[1:2] == (count,)
    if not by_rows and not by_columns:
        sizes = f"{list(magnitude.shape)}, but the base's weight has {list(own.shape)}"
        fault = f"`{layer}` has a dora_scale of shape {sizes}"
        raise FormatError("LoRA", fault, "apply it to a base of the family and size that it was trained on")
    kept_axis = 0 if by_rows else 1
    others = [axis for axis in range(own.ndim) if axis != kept_axis]
    norm: Tensor = torch.linalg.vector_norm(changed, dim=others, keepdim=True)
    norm = refuse_infinite("LoRA", f"a length in the change of `{layer}`", norm)  # W' would be finite: m/∞ is 0
    norm = norm.clamp(min=torch.finfo(norm.dtype).eps)  # a row of zeros has no direction, and stays zero
    return changed * (magnitude.reshape(norm.shape) / norm) - own


@contextmanager
def added(base: Base, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], strength: float) -> Iterator[Base]:
    """The base with W + ``strength`` · (W' - W); on exit, the weights are exactly as before.

    Weights in float32 are replaced. In half precision a small change of a large weight would be lost by rounding, so
    the change is added to the layer's output instead. Raises BaseError for layers that the base does not have.
    """
    alphas, layers = facts.get("alphas", {}), by_layer(tensors)
    loaded = parts_of(base)
    for full in layers:
        if full.partition(".")[0] not in loaded:
            raise _no_layer(base, full)
    with ExitStack() as undo:
        for part, module in loaded.items():
            names = {f"{part}.{name.removeprefix('text_model.')}": name for name, _ in module.named_modules()}
            weights: dict[str, Tensor] = {}
            for full in [full for full in layers if full.startswith(f"{part}.")]:
                layer: Any = module.get_submodule(names[full]) if full in names else None
                if not isinstance(getattr(layer, "weight", None), Tensor):
                    raise _no_layer(base, full)
                alpha = float(alphas.get(full, facts["alpha"]))
                if layer.weight.dtype.itemsize < 4:
                    beside = _beside(full, layers[full], alpha, layer, strength)
                    undo.callback(layer.register_forward_hook(beside).remove)
                else:
                    weights |= _replaced(full, layers[full], alpha, layer, strength, names[full])
            undo.enter_context(replaced_weights(module, weights))
        yield base


def _no_layer(base: Base, full: str) -> BaseError:
    action = "apply it to a base of the family and size that it was trained on"
    return BaseError(base.path, f"has no layer `{full}`, which this LoRA changes", action)


def _replaced(full: str, factors: Factors, alpha: float, layer: Any, strength: float, name: str) -> dict[str, Tensor]:
    """The new weight and bias of a layer, on the host, by their names in the module."""
    weights = {}
    if set(factors) != {BIAS}:
        changed = layer.weight + strength * change(full, factors, alpha, layer.weight)
        weights[f"{name}.weight"] = to_host(refuse_infinite("LoRA", f"the changed `{full}`", changed))
    if BIAS in factors:
        delta = bias_change(full, factors, getattr(layer, "bias", None))
        changed_bias = layer.bias + strength * delta
        weights[f"{name}.bias"] = to_host(refuse_infinite("LoRA", f"the changed bias of `{full}`", changed_bias))
    return weights


def _beside(full: str, factors: Factors, alpha: float, layer: Any, strength: float) -> Callable[..., Tensor]:
    """A forward hook that adds ΔW·x to a layer's output: with the two matrices of a pair, otherwise with one."""
    weight = layer.weight
    steps = [strength * change(full, factors, alpha, weight)] if set(factors) != {BIAS} else []
    if set(factors) == PAIR:
        down, up = (factors[name].to(weight.device, steps[0].dtype) for name in ("lora_A.weight", "lora_B.weight"))
        flat = up.flatten(1)
        steps = [down.reshape(len(down), *weight.shape[1:]), strength * alpha / len(down) * flat]
        steps[1] = steps[1].reshape(*flat.shape, *[1] * (weight.ndim - 2))
    steps = [refuse_infinite("LoRA", f"the change of `{full}`", step.to(weight)) for step in steps]
    added_bias = None
    if BIAS in factors:
        added_bias = (strength * bias_change(full, factors, getattr(layer, "bias", None))).to(weight)
        refuse_infinite("LoRA", f"the change of the bias of `{full}`", added_bias)

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0]
        for number, step in enumerate(steps):
            if isinstance(layer, nn.GroupNorm):
                x = group_norm(x, layer.num_groups, step, None, layer.eps)
            elif isinstance(layer, nn.LayerNorm):
                x = layer_norm(x, layer.normalized_shape, step, None, layer.eps)
            elif isinstance(layer, nn.Embedding):
                x = embedding(x, step)
            elif not isinstance(layer, nn.Conv2d):
                x = linear(x, step)
            elif number:
                x = conv2d(x, step)
            else:
                x = conv2d(x, step, stride=layer.stride, padding=layer.padding)
        if steps:
            output = output + x
        if added_bias is None:
            return output
        # channels are the second axis of pictures, but the last of tokens
        return output + (added_bias.view(-1, 1, 1) if output.ndim == 4 else added_bias)

    return add
