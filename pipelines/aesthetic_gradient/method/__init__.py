"""Aesthetic gradient: prompts are encoded closer to a set's pictures (Gallego, 2022, arXiv:2209.12330).

What is learned is one vector: the mean CLIP embedding of the pictures. For each prompt, a copy of the text encoder is
trained for a few steps that turn the prompt's CLIP embedding towards that vector, and the copy's output is mixed in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from etude.core.method import own_name
from etude.core.params import Location, MethodParams, Part, Rate

if TYPE_CHECKING:
    from torch import Tensor

    from etude.base.base import Base
    from etude.core.artifact import Artifact
    from etude.training.batches import Pictures
    from etude.training.report import Report

METHOD = own_name(__name__)
unsupported = {
    "sd2": "its text encoder ends one layer before the one that its CLIP compares with pictures",
    "sdxl": "its two text encoders belong to two CLIPs",
}
formats = ("aesthetic_pt",)
axes = {"steps": 5.0, "weight": 0.9, "slerp": 0.0, "turn": 0.1}


class Params(MethodParams):
    """The method's params.yaml."""

    refused_keys: ClassVar = {"start": "nothing is trained; the mean of the pictures depends on them alone"}

    clip: Location
    text: str
    negative: bool
    learning_rate: Rate
    save: Literal["fp32", "fp16"]

    @model_validator(mode="after")
    def _away_from_something(self) -> Self:
        if self.negative and not self.text:
            raise ValueError("`negative: true` needs a `text`, and `text` is empty")
        return self

    @property
    def base_parts(self) -> tuple[Part, ...]:
        """The text encoder alone."""
        return ("text",)

    def sources(self) -> dict[str, str]:
        """The CLIP whose text half is the base's text encoder."""
        return {"clip": self.clip}


def build(*, base: Base, pictures: Pictures, params: Params, report: Report) -> Artifact:
    """The mean of the pictures' embeddings, and the other tensors that drawing needs: nothing is trained here."""
    import torch

    from etude.base.vision import embed_pictures, text_projection
    from etude.core.artifact import Artifact

    folder = Path(params.clip)
    mean = embed_pictures(folder, folder, pictures.pixels, base.device).mean(dim=0, keepdim=True)
    projection = text_projection(folder)
    _refuse_other_clip(base, params.clip, projection)
    tensors = {"embedding": mean, "projection": projection}
    if params.text:
        with torch.no_grad():
            tensors["text"] = _text_feature(base, params.text, projection)
    facts = {"name": params.name, "images": len(pictures.names), "clip": params.clip}
    facts |= {"learning_rate": params.learning_rate, "text": params.text, "negative": params.negative}
    return Artifact(METHOD, tensors, facts, params.save).copied()


@contextmanager
def apply(
    artifact: Artifact, base: Base, steps: float = 5.0, weight: float = 0.9, slerp: float = 0.0, turn: float = 0.1
) -> Iterator[Base]:
    """Encode texts also with copies trained for ``steps`` steps, mixed in with ``weight``; on exit the hook is removed.

    ``slerp`` of 0.5 or more mixes along an arc. ``turn`` turns the aim towards the text of the params, or away from it.
    """
    from .prompt_steering import Steps, aim, mixed_readings

    # tensors from a file may be unaligned in memory, which changes the rounding of sums; Adam's first step amplifies it
    tensors = {name: tensor.contiguous().clone() for name, tensor in artifact.tensors.items()}
    _refuse_other_clip(base, artifact.facts["clip"], tensors["projection"])
    text = tensors.get("text")
    towards = aim(tensors["embedding"], text, negative=artifact.facts["negative"], turn=turn)
    taken = Steps(round(steps), artifact.facts["learning_rate"], tensors["projection"], towards)
    hook = mixed_readings(taken, weight, arc=slerp >= 0.5, end=base.tokenizers[0].eos_token_id)
    handle = base.text_encoders[0].register_forward_hook(hook, with_kwargs=True)
    try:
        yield base
    finally:
        handle.remove()


def _refuse_other_clip(base: Base, clip: str, projection: Tensor) -> None:
    """Raise BaseError if the projection does not fit the text encoder, which must be the text half of the same CLIP."""
    from etude.core.errors import BaseError

    width = base.text_encoders[0].config.hidden_size
    if projection.shape[1] != width:
        fault = f"needs a text encoder of width {projection.shape[1]}, but that of {base.path} has {width}"
        raise BaseError(
            clip, fault, f"set `clip` in pipelines/{METHOD}/params.yaml to the CLIP that contains this text encoder"
        )


def _text_feature(base: Base, text: str, projection: Tensor) -> Tensor:
    """The CLIP text embedding [1, d] of a text."""
    from etude.base.text import tokenise

    length = base.text_encoders[0].config.max_position_embeddings
    ids = tokenise(base, [text]).ids[0][:, :length].to(base.device)  # CLIP compares pictures with the first chunk
    pooled: Tensor = base.text_encoders[0](ids).pooler_output
    return pooled.float().cpu() @ projection.T
