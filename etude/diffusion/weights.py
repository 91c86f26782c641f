"""Whole weights: learned in place, named as an artifact's tensors, and put into a base for a while.

An artifact names a weight ``<part>.<parameter>``. A part is ``unet`` or one of the family's text encoders; a
parameter has diffusers' name, CLIP's without the ``text_model.`` that only some versions of transformers write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from etude.base.base import Base
from etude.core.errors import FormatError
from etude.diffusion.hooks import replaced_weights


def parts_of(base: Base) -> dict[str, nn.Module]:
    """The modules that methods change, by part; those that the base was loaded with."""
    unet = {} if base.unet is None else {"unet": base.unet}
    return unet | dict(zip(base.text_parts, base.text_encoders, strict=True))


def parameters_of(part: str, module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a part by their names in an artifact."""
    named = module.named_parameters()
    return {f"{part}.{name.removeprefix('text_model.')}": parameter for name, parameter in named}


@contextmanager
def learning(
    modules: Mapping[str, nn.Module], chosen: Callable[[str], bool] = lambda _: True
) -> Iterator[dict[str, nn.Parameter]]:
    """Parameters of ``modules`` (by part) as leaves that ask for gradients, by their names in an artifact.

    ``chosen`` tells by that name which. They are copies that take the places of the base's own weights; on leaving,
    those are back in their places, frozen. A GPU's memory is left to the copies: there the own ones wait on the host.
    """
    found = {name: p for part, module in modules.items() for name, p in parameters_of(part, module).items()}
    parameters = {name: parameter for name, parameter in found.items() if chosen(name)}
    before = {name: p.data.cpu() if p.is_cuda else p.data for name, p in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.data = before[name].to(parameter.device, copy=True)
            parameter.requires_grad_(True)
        yield parameters
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(False)
            parameter.data, parameter.grad = before[name].to(parameter.device), None


@contextmanager
def swapped(base: Base, tensors: Mapping[str, Tensor], strength: float = 1.0) -> Iterator[Base]:
    """The base with the weights of an artifact: W + ``strength`` · (W' - W), which at 1 is W' to the last bit.

    Leaving puts back the very same weights. Raises FormatError when a name or a shape does not fit.
    """
    own: dict[str, dict[str, Tensor]] = {}
    unknown = set(tensors)
    for part, module in parts_of(base).items():
        names = {parameter: name for name, parameter in module.named_parameters()}
        known = {name: p for name, p in parameters_of(part, module).items() if name in tensors}
        own[part] = {names[p]: _between(p, tensors[name], strength) for name, p in known.items()}
        unknown -= set(known)
    if unknown:
        fault = f"{len(unknown)} tensors, such as {min(unknown)}, are not in {base.path}"
        raise FormatError("weights", fault, "use weights that were made for this family of base")
    with ExitStack() as undo:
        for part, module in parts_of(base).items():
            undo.enter_context(replaced_weights(module, own[part]))
        yield base


def _between(before: Tensor, after: Tensor, strength: float) -> Tensor:
    """In float32 at least, so that a small difference is not rounded away before it is scaled."""
    if strength == 1.0 or before.shape != after.shape:  # a shape that does not fit is told by `replaced_weights`
        return after
    wide = torch.promote_types(before.dtype, torch.float32)
    start = before.detach().to(wide)
    return start + strength * (after.to(start) - start)
