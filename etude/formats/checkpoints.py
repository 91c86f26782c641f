"""Whole models: what the two checkpoint formats share.

An artifact may hold only the tensors that were learned, in the common form (`etude.core.model_files`): its `Frame` is
the rest of the model, and the configuration, from its base.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.families import text_parts
from etude.core.weights import in_precision


def parts() -> tuple[str, ...]:
    """The parts that a model of any family has."""
    return ("unet", "vae", *text_parts())


@dataclass(frozen=True)
class Frame:
    """What a whole model has besides what was learned.

    ``tensors`` in the common form; none when the artifact holds all. ``files``: configurations, scheduler and
    tokenizers as bytes, by their paths in a diffusers folder.
    """

    tensors: Mapping[str, Tensor]
    files: Mapping[str, bytes]


def misfit(artifact: Artifact, fault: str) -> tuple[str, str, str]:
    """Place, fault and action of the error for a base on which the artifact was not learned."""
    action = f"give the base that it was learned on ({artifact.facts.get('base', 'not named')}), or build it again"
    return place_of(artifact), fault, action


def place_of(artifact: Artifact) -> str:
    """How errors call an artifact, whose file is not known here: by its name."""
    return str(artifact.facts.get("name", "artifact"))


def complete(artifact: Artifact, frame: Frame) -> dict[str, Tensor]:
    """All tensors of the model, the base's in the artifact's precision; raises FormatError if the base lacks one."""
    learned = artifact.tensors
    if not frame.tensors:
        return dict(learned)
    known = {name: tensor.shape for name, tensor in frame.tensors.items()}
    strange = sorted(name for name, tensor in learned.items() if known.get(name) != tensor.shape)
    if strange:
        fault = f"holds {len(strange)} tensors that this base does not have in this shape, such as {strange[0]}"
        raise FormatError(*misfit(artifact, fault))
    precision = artifact.dtype
    tensors = {}
    for name, tensor in frame.tensors.items():
        if name in learned:
            tensors[name] = learned[name]
        else:
            wide = tensor.is_floating_point() and tensor.dtype != precision
            tensors[name] = in_precision("the base", name, tensor, precision) if wide else tensor
    return tensors
