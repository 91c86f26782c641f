"""Whole weights of a base: training them in place, their names in artifacts, and replacing them for a time.

A weight's name in an artifact is ``<part>.<parameter>``. A part is ``unet`` or one of the family's text encoders; a
parameter has diffusers' name, for CLIP without ``text_model.``, which only some versions of transformers write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from etude.base.base import Base
from etude.core.errors import FormatError
from etude.diffusion.hooks import replaced_weights, to_host


def parts_of(base: Base) -> dict[str, nn.Module]:
    """The loaded modules that methods can change, by part."""
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
    """Parameters of ``modules`` (by part) as leaves that require gradients, by their names in an artifact.

    ``chosen`` selects parameters by these names. They are copies that replace the base's own weights; on exit, the
    base's weights are restored, frozen. Meanwhile they are on the host, to save GPU memory.
    """
    all_parameters = {name: p for part, module in modules.items() for name, p in parameters_of(part, module).items()}
    parameters = {name: parameter for name, parameter in all_parameters.items() if chosen(name)}
    before = {name: to_host(p.data) for name, p in parameters.items()}
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
    """The base with the weights of an artifact: W + ``strength`` · (W' - W); at 1 it is exactly W'.

    On exit, the weights are exactly as before. Raises FormatError if a name or a shape does not fit.
    """
    own: dict[str, dict[str, Tensor]] = {}
    unknown = set(tensors)
    for part, module in parts_of(base).items():
        names = {parameter: name for name, parameter in module.named_parameters()}
        own_parameters = {name: p for name, p in parameters_of(part, module).items() if name in tensors}
        own[part] = {names[p]: tensors[name] for name, p in own_parameters.items()}
        unknown -= set(own_parameters)
    if unknown:
        fault = f"{len(unknown)} tensors, such as {min(unknown)}, are not in {base.path}"
        raise FormatError("weights", fault, "use weights that were made for this family of base")
    with ExitStack() as undo:
        for part, module in parts_of(base).items():
            undo.enter_context(replaced_weights(module, own[part], strength))
        yield base
