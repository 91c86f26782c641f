"""Whole models: what the two checkpoint formats share.

The common form of a checkpoint is ``<part>.<tensor>``, where a part is ``unet``, ``vae`` or a text encoder of the
family, and tensors have diffusers' names, those of text encoders without ``text_model.``. An artifact may
hold only the tensors that were learned: the rest, and the configuration, are those of its base, its `Frame`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.families import lacking_prefixes, text_parts
from etude.formats.ldm_names import OLD_ATTENTION


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


def complete(artifact: Artifact, frame: Frame) -> dict[str, Tensor]:
    """All tensors of the model, the base's in the precision of the artifact's; raises FormatError when one is new."""
    learned = artifact.tensors
    if not frame.tensors:
        return dict(learned)
    known = {name: tensor.shape for name, tensor in frame.tensors.items()}
    strange = sorted(name for name, tensor in learned.items() if known.get(name) != tensor.shape)
    if strange:
        fault = f"holds {len(strange)} tensors that its base has not, such as {strange[0]}"
        raise FormatError("artifact.safetensors", fault, "build it again on the base that `base` names")
    precision = artifact.dtype
    return {
        name: learned.get(name, tensor.to(precision) if tensor.is_floating_point() else tensor)
        for name, tensor in frame.tensors.items()
    }


def of_part(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of one part, without its name."""
    return {name.removeprefix(f"{part}."): tensor for name, tensor in tensors.items() if name.startswith(f"{part}.")}


def common(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A part's tensors in the common form: no ``text_model.``, no counters, today's names in the VAE's attention."""
    found, is_text = {}, part in text_parts()
    for name, tensor in tensors.items():
        if name.endswith("position_ids"):
            continue
        if is_text:
            name = name.removeprefix("text_model.")
        if part == "vae" and ".mid_block.attentions." in name:
            head, _, last = name.rpartition(".")
            start, _, layer = head.rpartition(".")
            name = f"{start}.{OLD_ATTENTION.get(layer, layer)}.{last}"
            if layer in OLD_ATTENTION and tensor.ndim == 4:
                tensor = tensor[:, :, 0, 0]
        found[f"{part}.{name}"] = tensor
    return found


def refuse_partial(path: Path, tensors: Mapping[str, Tensor], wanted: Iterable[str]) -> None:
    """Raise FormatError when a whole model lacks a part."""
    prefixes = [f"{part}." for part in wanted]
    missing = [prefix.removesuffix(".") for prefix in lacking_prefixes(tensors, prefixes)]
    if missing:
        raise FormatError(path, f"lacks {', '.join(missing)}", "name a whole checkpoint")
