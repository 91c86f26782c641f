"""Weights of single layers and new words (Custom Diffusion): what its formats share.

The common form has ``unet.<parameter>`` for a changed weight as a whole, or ``unet.<parameter>.delta`` for its
difference from the base's, and ``words.<i>.text_encoder`` [1, d] (SDXL also ``…text_encoder_2``) for the i-th word
of the fact ``words``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.weights import refuse_infinite
from etude.formats.checkpoints import Frame, misfit, place_of
from etude.formats.svd import truncated_to

DELTA = ".delta"


def differences(artifact: Artifact, frame: Frame) -> dict[str, Tensor]:
    """ΔW float32 by parameter of the UNet, without ``unet.``; raises FormatError if the base has no such parameter."""
    found = {}
    for name, tensor in _weights(artifact).items():
        own = _of_base(artifact, name, frame)
        delta = tensor.float() if name.endswith(DELTA) else tensor.float() - own.float()
        found[name.removesuffix(DELTA)] = refuse_infinite(place_of(artifact), f"the difference of `{name}`", delta)
    return found


def wholes(artifact: Artifact, frame: Frame) -> dict[str, Tensor]:
    """W' in the artifact's precision by parameter of the UNet, without ``unet.``."""
    found = {}
    for name, tensor in _weights(artifact).items():
        if name.endswith(DELTA):
            tensor = (_of_base(artifact, name, frame).float() + tensor.float()).to(tensor.dtype)
        found[name.removesuffix(DELTA)] = refuse_infinite(place_of(artifact), f"`{name}`", tensor)
    return found


def words(artifact: Artifact) -> dict[str, dict[str, Tensor]]:
    """Rows [1, d] by word and text encoder."""
    rows: dict[str, dict[str, Tensor]] = {}
    for number, word in enumerate(artifact.facts["words"]):
        prefix = f"words.{number}."
        own = {name: tensor for name, tensor in artifact.tensors.items() if name.startswith(prefix)}
        rows[word] = {name.removeprefix(prefix): tensor for name, tensor in own.items()}
    return rows


def common(
    weights: Mapping[str, Tensor], rows: Mapping[str, Mapping[str, Tensor]], *, delta: bool
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """The common form of weights (or, with ``delta``, differences) and words, and the fact ``words``."""
    tensors = {f"unet.{name}{DELTA if delta else ''}": tensor for name, tensor in weights.items()}
    for number, own in enumerate(rows.values()):
        for part, row in own.items():
            tensors[f"words.{number}.{part}"] = row[None] if row.ndim == 1 else row
    return tensors, {"words": list(rows)}


def product(path: Path, name: str, left: Tensor, right: Tensor) -> Tensor:
    """The difference of a weight whose file has two factors, in float32; raises FormatError if it is not finite."""
    return refuse_infinite(path, f"the product of the factors of `{name}`", left.float() @ right.float())


def factors(delta: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """U·S [out, r] and Vᵀ [r, in], float32, of the fewest singular values with a sum above ``share`` of that of all."""
    u, s, vh = truncated_to(delta, share)
    return (u * s).float().contiguous(), vh.float().contiguous()


def _weights(artifact: Artifact) -> dict[str, Tensor]:
    return {name.removeprefix("unet."): t for name, t in artifact.tensors.items() if name.startswith("unet.")}


def _of_base(artifact: Artifact, name: str, frame: Frame) -> Tensor:
    own = frame.tensors.get(f"unet.{name.removesuffix(DELTA)}")
    if own is None or own.shape != artifact.tensors[f"unet.{name}"].shape:
        raise FormatError(*misfit(artifact, f"holds `{name}`, which this base does not have in this shape"))
    return own
