"""Textual inversion: a word of n vectors in the table of token embeddings (Gal et al., 2022, arXiv:2208.01618).

Only the n rows [n, d] are ever parameters: the table stays as it is, so nothing has to be restored after a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeFloat

from etude.params import MethodParams
from etude.training.plan import Optimization
from etude.training.preview import Preview

if TYPE_CHECKING:
    from torch import Tensor

    from etude.artifact import Artifact
    from etude.diffusion.base import Base
    from etude.training.batches import Batch, Images
    from etude.training.report import Report

bases = ("sd1", "sd2", "sdxl")
formats = ("embedding_pt", "embedding_safetensors", "diffusers_embedding")
axes: dict[str, float] = {}  # its strength is that of a word in a prompt

PARTS = ("text_encoder", "text_encoder_2")  # sdxl's word has rows in both


class Params(MethodParams):
    """pipelines/textual_inversion/params.yaml."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^\S+$", description="the new word")
    vectors: int = Field(ge=1, le=75)  # what fits between the start and the end of a prompt
    initializer: str
    templates: list[Annotated[str, Field(pattern=r"\[name\]")]] = Field(min_length=1)
    largest_norm: NonNegativeFloat
    clip_skip: int = Field(ge=0, le=10)
    save: Literal["fp32", "fp16", "bf16"]
    training: Optimization
    preview: Preview


def build(*, base: Base, images: Images, params: Params, report: Report) -> Artifact:
    """Train the rows on noise predicted under prompts that hold the word."""
    import torch

    from etude.artifact import Artifact
    from etude.diffusion.base import DTYPES
    from etude.diffusion.hooks import added_tokens
    from etude.diffusion.text import encode_prompts
    from etude.training.batches import Batches
    from etude.training.denoising import denoising_loss
    from etude.training.fit import fit
    from etude.training.words import starting_rows

    plan = params.training
    batches = Batches(images, None, batch_size=plan.batch_size, seed=report.seed, device=str(base.device))
    prompts = [template.replace("[name]", params.name) for template in params.templates]
    starts = starting_rows(base, params.initializer, params.vectors)
    rows = {part: start.requires_grad_() for part, start in zip(PARTS, starts, strict=False)}

    def now() -> Artifact:
        kept = {part: row.detach().to("cpu", DTYPES[params.save], copy=True) for part, row in rows.items()}
        return Artifact("textual_inversion", kept, {"name": params.name, "vectors": params.vectors})

    def loss(batch: Batch) -> Tensor:
        chosen = torch.randint(len(prompts), (len(batch.names),)).tolist()
        conditioning = encode_prompts(base, [prompts[i] for i in chosen], params.clip_skip)
        return denoising_loss(base, batch.mean, batch.logvar, conditioning, plan)

    report.artifact = now
    with added_tokens(base, {params.name: tuple(rows.values())}):
        fit(rows, loss, batches, plan, report, _shortened(rows, params.largest_norm))
    return now()


@contextmanager
def apply(artifact: Artifact, base: Base) -> Iterator[Base]:
    """The base knows the word; leaving makes it forget."""
    from etude.diffusion.hooks import added_tokens

    rows = [artifact.tensors[part] for part in PARTS if part in artifact.tensors]
    with added_tokens(base, {artifact.facts["name"]: rows}) as changed:
        yield changed


def _shortened(rows: dict[str, Tensor], largest: float) -> Callable[[int], None] | None:
    """After each step: v ← v · min(1, largest/‖v‖). Vectors that grow drown out the other words of a prompt."""
    import torch

    @torch.no_grad()
    def shorten(_step: int) -> None:
        for row in rows.values():
            row.mul_((largest / row.norm(dim=1, keepdim=True)).clamp(max=1))

    return shorten if largest else None
