"""Previews: pictures drawn during a training run. They are for people and are not measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, model_validator

from etude.base.settings import Sampling
from etude.core.params import MethodParams, Schema, Seed, refuse_twice
from etude.core.placeholder import insert_name

if TYPE_CHECKING:
    from PIL.Image import Image

    from etude.base.base import Base
    from etude.base.conditioning import Conditioning

    Texts = tuple[tuple[Conditioning, ...], Conditioning | None]  # of each prompt, and of the negative prompt


class Preview(Sampling):
    """The ``preview`` block of a method's params.yaml.

    Previews have their own settings: a change of ``sampling`` in the root's params.yaml causes no new training.
    """

    former_keys: ClassVar = {"prompt": "prompts"}
    listed_keys: ClassVar = ("prompts",)
    added_keys: ClassVar = {"every": 0}

    prompts: list[str] = Field(
        min_length=1, max_length=64, description="a row of pictures for each; [name] is the method's name"
    )
    seeds: list[Seed] = Field(max_length=64, description="one picture for each, side by side; empty: no previews")
    every: int = Field(ge=0, le=10_000_000, description="steps between previews; 0: one at each checkpoint")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        refuse_twice(prompts=self.prompts, seeds=self.seeds)
        return self


class HasPreview(Schema):
    """A method that draws previews: before the first step (the untouched base), every so many steps, and at the end."""

    preview: Preview


def preview_of(params: Schema) -> Preview | None:
    """The preview settings of a method; None if it draws no previews."""
    return params.preview if isinstance(params, HasPreview) and params.preview.seeds else None


def encode(base: Base, preview: Preview, name: str, precision: str) -> Texts:
    """The encoded texts of each prompt's pictures, and of the negative prompt (None if guidance does not use it)."""
    import torch

    from etude.base.text import encode_prompts
    from etude.base.waiting import present
    from etude.diffusion.sample import encode_negative
    from etude.training.autocast import computing

    count, skipped = len(preview.seeds), preview.clip_skip
    with torch.no_grad(), computing(base.device.type, precision), present(base, "text"):
        rows = [[insert_name(prompt, name)] * count for prompt in preview.prompts]
        positives = tuple(encode_prompts(base, row, skipped) for row in rows)
        return positives, encode_negative(base, preview.negative, count, skipped) if preview.guidance > 1 else None


def encode_fixed(base: Base, preview: Preview, params: MethodParams, precision: str) -> Texts | None:
    """`encode` before training; None if training changes text encoders or words: then each preview encodes again."""
    return None if "text" in params.step_parts else encode(base, preview, params.word, precision)


def draw(base: Base, preview: Preview, name: str, precision: str, texts: Texts | None = None) -> Image:
    """A row for each prompt, with the pictures of all seeds, drawn with ``base`` in its present state and the precision
    of training. One row is drawn at a time.

    ``texts``: what `encode_fixed` returned; None: they are encoded now.
    """
    import numpy as np
    from PIL import Image

    from etude.diffusion.sample import generate
    from etude.training.autocast import computing
    from etude.training.fit import release_recordings

    sampling, rows = preview.model_dump(exclude={"prompts", "seeds", "every", "negative"}), []
    with evaluating(base), computing(base.device.type, precision):
        positives, negative = texts or encode(base, preview, name, precision)
        release_recordings()  # otherwise the first step would be recorded as one that follows the step of training
        for positive in positives:
            pictures = generate(
                base,
                positive,
                negative=negative or "",
                seeds=preview.seeds,
                progress=lambda *_: release_recordings(),
                **sampling,
            )
            rows.append(np.concatenate(list(pictures.numpy()), axis=1))
    return Image.fromarray(np.concatenate(rows))


@contextmanager
def evaluating(base: Base) -> Iterator[None]:
    """Within the block, modules are in evaluation mode (no dropout); on exit, each has its earlier mode again."""
    modules = [module for part in (base.unet, *base.text_encoders) for module in part.modules()]
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
