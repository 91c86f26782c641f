"""Textual inversion: a word of n vectors in the table of token embeddings (Gal et al., 2022, arXiv:2208.01618).

Only the n rows [n, d] are parameters: the table itself is not trained, so nothing must be restored after a step.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from etude.core.families import text_rows
from etude.core.method import own_name
from etude.core.mixins import ReadsCaptions
from etude.core.params import Scale
from etude.core.placeholder import insert_name
from etude.training.masks import MaskedLoss
from etude.training.plan import Trained
from etude.training.preview import HasPreview
from etude.training.sets import FurtherSets
from etude.training.sizes import TellsSizes
from etude.training.start import Start, Starts, rows, shape_faults
from etude.training.tags import HasTags, refuse_idle_tags, vary
from etude.training.templates import Template, draw, refuse_idle_reading, refuse_silent

if TYPE_CHECKING:
    from torch import Tensor, nn

    from etude.base.base import Base
    from etude.core.artifact import Artifact
    from etude.training.batches import Batch, Captions, Images
    from etude.training.plan import Optimization
    from etude.training.report import Report

METHOD = own_name(__name__)
unsupported: dict[str, str] = {}
formats = ("embedding_pt", "embedding_safetensors", "diffusers_embedding")
axes: dict[str, float] = {}  # none: the word's weight in the prompt sets the strength


class Params(ReadsCaptions, HasTags, TellsSizes, MaskedLoss, Starts, Trained, HasPreview, FurtherSets):
    """The method's params.yaml."""

    needs_class: ClassVar[bool] = True
    refused_keys: ClassVar = dict.fromkeys(
        ("class_images", "prior_weight", "prior_batch_size"),
        "only the vectors of the word are trained, and texts of the class do not contain it: nothing is forgotten",
    )

    trigger: Literal[True]
    name: str = Field(max_length=64, pattern=r"^[^\s\[\]]+$", description="the new word, without [ or ]")
    vectors: int = Field(ge=1, le=75)  # a prompt has 75 places between start and end
    initializer: str
    templates: list[Template] = Field(min_length=1)
    progressive: int = Field(ge=0, le=1_000_000)
    anchor: float = Field(ge=0, le=1e6)
    usual_norm: Scale
    largest_norm: Scale
    clip_skip: int = Field(ge=0, le=10)
    save: Literal["fp32", "fp16", "bf16"]

    @model_validator(mode="after")
    def _reads_what_it_needs(self) -> Self:
        refuse_idle_reading(self.templates, self.reads)
        refuse_idle_tags(self.tags, self.templates, self.reads)
        if self.progressive >= self.training.steps:
            raise ValueError(
                f"`progressive` {self.progressive} is never reached in {self.training.steps} steps: lower it"
            )
        return self

    def pointed(self, images: str, word: str, kind: str) -> dict[str, Any]:
        """The new word starts from the word of the class."""
        return {"set": images, "name": word, "initializer": kind}

    def misfits(self, start: Start, parts: Mapping[str, nn.Module]) -> Iterator[str]:
        """Compare the number of vectors, and the text encoders that they are for."""
        found = {shape[0] for shape in start.shapes.values()}
        if found != {self.vectors}:
            yield f"has {' and '.join(map(str, sorted(found)))} vectors, and `vectors` is {self.vectors}"
        yield from shape_faults(start.shapes, rows(parts, self.vectors))


def build(*, base: Base, images: Images, captions: Captions | None, params: Params, report: Report) -> Artifact:
    """Train the rows on the loss of predictions for prompts that contain the word."""
    from etude.base.text import encode_prompts
    from etude.core.artifact import Artifact
    from etude.diffusion.hooks import added_tokens
    from etude.training.batches import Batches
    from etude.training.denoising import denoising_loss
    from etude.training.fit import fit

    plan, name = params.training, params.name
    refuse_silent(params.templates, captions.texts if captions else {}, name, params.set, params.tags)
    device, varied = str(base.device), captions and vary(captions, params.tags, report.seed)
    batches = Batches(images, varied, batch_size=plan.batch_size, seed=report.seed, device=device, encoded=False)
    moved = _rows(base, params, report)
    starts = tuple(row.detach().clone() for row in moved.values())

    def use(step: int) -> None:
        base.words[name] = tuple(row[: _used(step, params)] for row in moved.values())

    learned = Artifact(METHOD, {}, {"name": name}, params.save)

    def refresh() -> None:
        learned.tensors.update(zip(base.text_parts, base.words[name], strict=True))
        learned.facts["vectors"] = len(base.words[name][0])

    def loss(turn: Turn) -> Tensor:
        use(turn.step)
        texts = draw(params.templates, turn.batch.texts or [""] * len(turn.names), name)
        conditioning = encode_prompts(base, [insert_name(text, name) for text in texts], params.clip_skip)
        weights = params.cell_weights(turn.batch.attention)
        value = denoising_loss(base, turn.batch, conditioning, plan, weights)
        return value + params.anchor * _strayed(moved, starts) if params.anchor else value

    with added_tokens(base, {name: tuple(moved.values())}):
        use(plan.steps - 1)  # needed if the run has already ended, because then no step sets the rows
        turns, held = _turns(batches, plan), _held(moved, params)
        return fit(moved, loss, turns, plan, report, learned, refresh=refresh, after_step=held)


def _rows(base: Base, params: Params, report: Report) -> dict[str, Tensor]:
    """The rows that are trained, by text encoder: initially those of `start`, or otherwise those of `initializer`."""
    from etude.training.words import starting_rows

    first = starting_rows(base, params.initializer, params.vectors)
    rows = {part: row.clone() for part, row in zip(base.text_parts, first, strict=True)}
    if report.beginning:
        report.beginning.copy_into(rows)
    for row in rows.values():
        row.requires_grad_()
    return rows


@contextmanager
def apply(artifact: Artifact, base: Base) -> Iterator[Base]:
    """Add the word to the base; on exit it is removed."""
    from etude.diffusion.hooks import added_tokens

    with added_tokens(base, {artifact.facts["name"]: text_rows(artifact.tensors)}) as changed:
        yield changed


@dataclass(frozen=True)
class Turn:
    """A batch, and its 0-based step."""

    batch: Batch
    step: int

    @property
    def names(self) -> Sequence[str]:
        """The names of its images."""
        return self.batch.names


def _turns(batches: Callable[[int], Batch], plan: Optimization) -> Callable[[int], Turn]:
    """The function from ``index`` to the batch with its step; several processes share the batches of a step."""
    each = plan.accumulation * int(os.environ.get("WORLD_SIZE", 1))
    return lambda index: Turn(batches(index), index // each)


def _used(step: int, params: Params) -> int:
    """The number of vectors of the word at a step: with ``progressive`` 1 at first, and 1 more every so many steps."""
    return min(1 + step // params.progressive, params.vectors) if params.progressive else params.vectors


def _strayed(rows: Mapping[str, Tensor], starts: Sequence[Tensor]) -> Tensor:
    """Mean over the vectors of ‖v - start‖², summed over the text encoders."""
    far = [(row - start).square().sum(dim=1).mean() for row, start in zip(rows.values(), starts, strict=True)]
    return sum(far[1:], far[0])


def _held(rows: Mapping[str, Tensor], params: Params) -> Callable[[int], None]:
    """The function that limits the lengths of vectors after each step: long ones suppress the other words of a prompt.

    With ``usual_norm`` l: v ← v/‖v‖ · (‖v‖ + λ(l - ‖v‖)), λ = min(1, 100 · learning rate), as in cloneofsimo's pivotal
    tuning. Then, with ``largest_norm``: v ← v · min(1, largest/‖v‖).
    """
    import torch

    @torch.no_grad()
    def hold(step: int) -> None:
        for row in rows.values():
            if params.usual_norm:
                norm = row.norm(dim=1, keepdim=True).clamp(min=1e-12)
                pull = min(1.0, 100 * params.training.rate(step))
                row.mul_((norm + pull * (params.usual_norm - norm)) / norm)
            if params.largest_norm:
                row.mul_((params.largest_norm / row.norm(dim=1, keepdim=True)).clamp(max=1))

    return hold
