"""Temporary changes to a base: new words, extra negative prompts, other weights, supplied pictures, custom samplers.

Each is a context manager. On exit, also after an error, the base is restored bit for bit: tables and weights are not
overwritten, they are only replaced for a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from etude.base.base import Base, CustomSampler
from etude.base.unclip import Supplied
from etude.core.errors import BaseError, ConflictError, FormatError
from etude.core.spelling import as_read


@contextmanager
def added_tokens(base: Base, words: Mapping[str, Tensor | Sequence[Tensor]]) -> Iterator[Base]:
    """Add words with their rows [n, d] of token embeddings: textual inversion (Gal et al., 2022, arXiv:2208.01618).

    A base with several text encoders needs a tensor for each. Rows may require gradients: they are inserted into the
    output of the embedding table, so no gradient of the whole table is computed. Contexts may be nested. Raises
    ConflictError for a word that is active already, BaseError for rows of another width.
    """
    rows = {name: _rows(base, name, vectors) for name, vectors in words.items()}
    active = {as_read(name) for name in base.words}
    for name in rows:
        if as_read(name) in active:
            raise ConflictError(name, "was already added as a word", "give one of the two another name")
        active.add(as_read(name))
    with ExitStack() as undo:
        if not base.words:
            for number, encoder in enumerate(base.text_encoders):
                _splice(base, number, encoder.get_input_embeddings(), undo)
        base.words.update(rows)
        try:
            yield base
        finally:
            for name in rows:
                del base.words[name]


@contextmanager
def extra_negative_prompt(base: Base, text: str) -> Iterator[Base]:
    """Add ``text`` to every negative prompt.

    With it, a method can also change the unconditional half of guidance, for all pictures drawn with the base.
    """
    base.extra_negative_prompts.append(text)
    try:
        yield base
    finally:
        base.extra_negative_prompts.remove(text)


@contextmanager
def replaced_weights(module: nn.Module, tensors: Mapping[str, Tensor], strength: float = 1.0) -> Iterator[nn.Module]:
    """Give parameters of ``module`` the values W + ``strength`` · (W' - W), with W' by name in ``tensors``.

    They are cast to the module's device and precision, one after the other; meanwhile W is on the host. The parameters
    stay the same objects, so every reference to one sees the change. Raises FormatError, before anything is changed, if
    a name or a shape does not fit.
    """
    parameters = dict(module.named_parameters())
    unknown = sorted(set(tensors) - set(parameters))
    if unknown:
        fault = f"{len(unknown)} tensors, such as {unknown[0]}, are not in this {type(module).__name__}"
        raise FormatError("weights", fault, "use weights that were made for this family of base")
    for name, tensor in tensors.items():
        if tensor.shape != parameters[name].shape:
            fault = f"{name} has shape {list(tensor.shape)}, but in the base it has {list(parameters[name].shape)}"
            raise FormatError("weights", fault, "use weights that were made for this base")
    before: dict[str, Tensor] = {}
    try:
        for name, tensor in tensors.items():
            parameter = parameters[name]
            changed = _between(parameter.data, tensor.detach(), strength).to(parameter.data)
            before[name], parameter.data = to_host(parameter.data), changed
        yield module
    finally:
        for name, data in before.items():
            parameters[name].data = data.to(parameters[name].device)


def to_host(tensor: Tensor) -> Tensor:
    """A tensor of a GPU as a copy on the host; any other as it is."""
    return tensor.cpu() if tensor.is_cuda else tensor


def _between(before: Tensor, after: Tensor, strength: float) -> Tensor:
    """The interpolated weight, in float32 or wider, so that a small difference is not lost by rounding."""
    if strength == 1.0:
        return after
    wide = torch.promote_types(before.dtype, torch.float32)
    start = before.to(wide)
    return start + strength * (after.to(start) - start)


@contextmanager
def supplied_picture(base: Base, embedding: Tensor, level: int = 0) -> Iterator[Base]:
    """Condition an unCLIP base on a picture by its CLIP embedding [1, d] with noise of ``level`` (0 to 999).

    With nested contexts, the innermost counts. Raises BaseError if the base cannot be conditioned on pictures, needs
    embeddings of another width, or does not support noise.
    """
    if base.unclip is None:
        action = "set the method's `base` to an unCLIP base, such as models/miniature-unclip or Stable unCLIP 2.1"
        raise BaseError(base.path, "is no unCLIP base: it cannot be conditioned on a picture", action)
    if embedding.shape != (1, base.unclip.width):
        fault = f"needs picture embeddings of {base.unclip.width} numbers, not of shape {list(embedding.shape)}"
        raise BaseError(base.path, fault, "use an embedding made by the CLIP of this base")
    base.unclip.refuse_noise(base.path, level)
    base.unclip.supplied.append(Supplied(embedding.to(base.unclip.mean), level))
    try:
        yield base
    finally:
        base.unclip.supplied.pop()


@contextmanager
def custom_sampler(base: Base, sampler: CustomSampler) -> Iterator[Base]:
    """Make `generate` call ``sampler`` with prompts, seeds and size. With nested contexts, the innermost counts."""
    base.custom_samplers.append(sampler)
    try:
        yield base
    finally:
        base.custom_samplers.pop()


def _rows(base: Base, name: str, vectors: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """A tensor [n, d] for each text encoder; raises BaseError if shapes do not fit."""
    if not base.text_encoders:
        raise BaseError(base.path, "was loaded without its text encoder", 'add "text" to the `parts` of load_base')
    if not name.strip() or name != name.strip():
        raise BaseError(f"word {name!r}", "is empty, or begins or ends with a space", "choose another name")
    rows = (vectors,) if isinstance(vectors, Tensor) else tuple(vectors)
    shapes = [tuple(tensor.shape) for tensor in rows]
    widths = [encoder.get_input_embeddings().embedding_dim for encoder in base.text_encoders]
    count = shapes[0][0] if shapes and shapes[0] else 0
    if count == 0 or shapes != [(count, width) for width in widths]:
        wanted = " and ".join(f"[n, {width}]" for width in widths)
        action = f"give {wanted}: an embedding made for a {base.family} base of this width"
        raise BaseError(f"word {name!r}", f"has rows of shape {', '.join(map(str, shapes)) or 'nothing'}", action)
    return rows


def _splice(base: Base, number: int, table: nn.Module, undo: ExitStack) -> None:
    """Make a text encoder's embedding table return the rows of ``base.words`` for negative ids."""
    ids_stack: list[Tensor] = []

    def before(_module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Tensor, ...]:
        ids_stack.append(arguments[0])
        return (arguments[0].clamp(min=0),)

    def after(_module: nn.Module, _arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        ids = ids_stack.pop()
        nothing = output.new_zeros(1, output.shape[-1])
        rows = torch.cat([nothing, *(vectors[number].to(output) for vectors in base.words.values())])
        # adds rows of zeros: `where`, with its gradient, would take twice as long
        others = (ids >= 0).unsqueeze(-1).to(output)
        return embedding((-ids).clamp(min=0), rows).addcmul_(output, others)

    undo.callback(table.register_forward_pre_hook(before).remove)
    undo.callback(table.register_forward_hook(after).remove)
