"""Previews: a picture drawn at every checkpoint of a training run. They are for people and are not measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from etude.base.settings import Sampling
from etude.core.params import MethodParams, Schema, Seed, refuse_twice
from etude.core.placeholder import insert_name

if TYPE_CHECKING:
    from PIL.Image import Image

    from etude.base.base import Base
    from etude.base.conditioning import Conditioning

    Texts = tuple[Conditioning, Conditioning | None]


class Preview(Sampling):
    """The ``preview`` block of a method's params.yaml. It is separate from the root's ``sampling``, so that a change of
    that retrains nothing.
    """

    prompt: str = Field(description="[name] is the method's name")
    seeds: list[Seed] = Field(max_length=64, description="one picture for each, side by side; empty: no previews")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        refuse_twice(seeds=self.seeds)
        return self


class HasPreview(Schema):
    """A method that draws a preview at each checkpoint."""

    preview: Preview


def preview_of(params: Schema) -> Preview | None:
    """What a method draws at each checkpoint; None if it draws nothing."""
    return params.preview if isinstance(params, HasPreview) and params.preview.seeds else None


def encode(base: Base, preview: Preview, name: str, precision: str) -> Texts:
    """The texts of all seeds' pictures and of the negative prompt; the latter is None if guidance does not use it."""
    import torch

    from etude.base.text import encode_prompts
    from etude.base.waiting import present
    from etude.diffusion.sample import encode_negative

    prompts, skipped = [insert_name(preview.prompt, name)] * len(preview.seeds), preview.clip_skip
    with torch.no_grad(), computing(base, precision), present(base, "text"):
        positive = encode_prompts(base, prompts, skipped)
        if preview.guidance <= 1:
            return positive, None
        return positive, encode_negative(base, preview.negative, len(prompts), skipped)


def encode_fixed(base: Base, preview: Preview, params: MethodParams, precision: str) -> Texts | None:
    """`encode`, before training; None if training changes text encoders or words, so that each preview has its own."""
    return None if "text" in params.step_parts else encode(base, preview, params.word, precision)


def draw(base: Base, preview: Preview, name: str, precision: str, texts: Texts | None = None) -> Image:
    """The pictures of all seeds in a row, drawn with ``base`` in its present state and the precision of training.

    ``texts``: what `encode_fixed` returned; for None they are encoded now.
    """
    import numpy as np
    from PIL import Image

    from etude.diffusion.sample import generate

    sampling = preview.model_dump(exclude={"prompt", "seeds", "negative"})
    with evaluating(base), computing(base, precision):
        positive, negative = texts or encode(base, preview, name, precision)
        pictures = generate(base, positive, negative=negative or "", seeds=preview.seeds, **sampling)
    return Image.fromarray(np.concatenate(list(pictures.numpy()), axis=1))


def computing(base: Base, precision: str) -> AbstractContextManager[Any]:
    """Autocast in the precision of training, without copies of weights that stay."""
    import torch

    from etude.base.base import DTYPES

    if precision == "fp32":
        return nullcontext()
    return torch.autocast(base.device.type, DTYPES[precision], cache_enabled=False)


@contextmanager
def evaluating(base: Base) -> Iterator[None]:
    """Modules are in evaluation mode inside (no dropout); on exit, each has its earlier mode again."""
    modules = [module for part in (base.unet, *base.text_encoders) for module in part.modules()]
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
