"""DreamBooth: the whole UNet learns a rare word together with its class word (Ruiz et al., 2022, arXiv:2208.12242).

L = MSE("sks bear", own pictures) + λ · MSE("bear", pictures that the base draws for "bear"). The second term is prior
preservation: without it, the model forgets the class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from etude.base.settings import KeepsClass
from etude.core.method import own_name
from etude.core.mixins import TrainsWeights
from etude.core.params import classed
from etude.core.placeholder import insert_name
from etude.core.spelling import as_read, has_word
from etude.training.masks import MaskedLoss
from etude.training.plan import TrainedWhole
from etude.training.preview import HasPreview
from etude.training.sets import FurtherSets
from etude.training.sizes import TellsSizes
from etude.training.start import StartsWhole

if TYPE_CHECKING:
    from torch import Tensor

    from etude.base.base import Base
    from etude.base.conditioning import Conditioning
    from etude.core.artifact import Artifact
    from etude.training.batches import Images
    from etude.training.prior import Pair, Prior
    from etude.training.report import Report

METHOD = own_name(__name__)
unsupported: dict[str, str] = {}
formats = ("diffusers_checkpoint", "ldm_checkpoint")
axes = {"strength": 1.0}


class Params(KeepsClass, TrainsWeights, TellsSizes, MaskedLoss, StartsWhole, TrainedWhole, HasPreview, FurtherSets):
    """The method's params.yaml."""

    needs_class: ClassVar[bool] = True

    trigger: Literal[True]
    name: str = Field(
        max_length=64,
        pattern=r"^[^\s\[\]]+( [^\s\[\]]+)+$",
        description="a rare word and the word of the class, `sks dog`",
    )
    templates: list[Annotated[str, Field(pattern=r"\[name\]")]] = Field(
        min_length=1, description="texts, each with [name] in it"
    )
    clip_skip: int = Field(ge=0, le=10)
    save: Literal["fp32", "fp16", "bf16"]

    @model_validator(mode="after")
    def _one_class(self) -> Self:
        rare, _, word = self.name.partition(" ")
        for prompt in self.class_images.prompts:
            if as_read(word) not in as_read(prompt):
                raise ValueError(f"`class_images.prompts` has {prompt!r} without {word!r}, the class in `name`")
            if has_word(rare, prompt):
                raise ValueError(
                    f"`class_images.prompts` has {prompt!r}: remove {rare!r}, because class images show the class alone"
                )
        return self

    def image_sets(self) -> list[str]:
        """The sets that are learned, and those of real class images."""
        return [*super().image_sets(), *self.class_images.real]

    @property
    def class_word(self) -> str:
        """The part of the name after the rare word."""
        return self.name.partition(" ")[2]

    def pointed(self, images: str, word: str, kind: str) -> dict[str, Any]:
        """The name contains the class; for another class, class images are drawn again."""
        prompts = [classed(prompt, self.class_word, kind) for prompt in self.class_images.prompts]
        real = self.class_images.real if kind == self.class_word else []
        own = {"class_images.prompts": prompts, "class_images.real": real}
        return {"set": images, "name": f"{word} {kind}", **own}


def build(*, base: Base, images: Images, class_images: Prior | None, params: Params, report: Report) -> Artifact:
    """Train all weights of the UNet, and those of the text encoders if ``text_encoder_rate`` is above 0."""
    from etude.core.artifact import Artifact
    from etude.diffusion.weights import learning, parts_of
    from etude.training import prior
    from etude.training.batches import Batches
    from etude.training.fit import fit
    from etude.training.rates import groups

    plan = params.training
    own = Batches(images, None, batch_size=plan.batch_size, seed=report.seed, device=str(base.device))
    size = params.prior_batch_size if params.prior_weight else 0
    pairs = prior.pairs(own, class_images, base, batch_size=size, clip_skip=params.clip_skip, folder=report.texts)
    read = _reader(base, params)

    def loss(pair: Pair) -> Tensor:
        weights = params.cell_weights(pair.own.attention)
        return prior.preserving_loss(base, pair, read(pair), plan, params.prior_weight, weights)

    with learning(parts_of(base), params.trains) as weights:
        facts = {
            "name": params.name,
            "images": len(images.names),
            "class_images": len(class_images.images.names) if class_images else 0,
        }
        learned = Artifact(METHOD, dict(weights), facts, params.save)
        return fit(
            groups(weights, params.text_encoder_rate),
            loss,
            pairs,
            plan,
            report,
            learned,
            release=params.gradient_release,
        )


@contextmanager
def apply(artifact: Artifact, base: Base, strength: float = 1.0) -> Iterator[Base]:
    """Replace the base's weights; ``strength`` below 1 interpolates. On exit, the weights are exactly as before."""
    from etude.diffusion.weights import swapped

    with swapped(base, artifact.tensors, strength):
        yield base


def _reader(base: Base, params: Params) -> Callable[[Pair], Conditioning]:
    """The function that makes a pair's conditioning: a random template for each own picture, then the class's texts.

    Texts are encoded once, or again for each pair if the text encoder is trained.
    """
    import torch

    from etude.base.conditioning import Conditioning
    from etude.base.text import encode_prompts
    from etude.base.waiting import sent

    prompts = [insert_name(template, params.name) for template in params.templates]
    encoded = encode_prompts(base, prompts, params.clip_skip)

    def read(pair: Pair) -> Conditioning:
        chosen = torch.randint(len(prompts), (len(pair.own.names),))
        if params.text_encoder_rate:
            texts = [prompts[i] for i in chosen.tolist()] + list(pair.prior.texts if pair.prior else ())
            return encode_prompts(base, texts, params.clip_skip)
        class_texts = pair.prior.conditioning if pair.prior else None
        return Conditioning.cat([encoded[sent(chosen, base.device)], *([class_texts] if class_texts else [])])

    return read
