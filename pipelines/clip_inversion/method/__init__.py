"""CLIP inversion: one CLIP image embedding, learned with a base that is conditioned on such embeddings (unCLIP).

As textual inversion learns a word, this learns a point in the space of CLIP's picture embeddings (Ramesh et al., 2022,
arXiv:2204.06125): it starts at the mean of the set's pictures, and moves to where the base predicts them best. It is
learned with guidance (like DreamArtist's words, Dong et al., 2022, arXiv:2211.11337) and together with the captions,
so that the embedding need not contain what the captions already describe.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from etude.core.method import own_name
from etude.core.mixins import OwnBase
from etude.core.params import MethodParams
from etude.core.placeholder import fill
from etude.training.plan import Trained
from etude.training.preview import HasPreview
from etude.training.tags import HasTags, refuse_idle_tags, vary
from etude.training.templates import draw

if TYPE_CHECKING:
    from torch import Tensor

    from etude.base.base import Base
    from etude.base.conditioning import Conditioning
    from etude.base.unclip import Unclip
    from etude.core.artifact import Artifact
    from etude.training.batches import Batch, Captions, Images, Pictures
    from etude.training.report import Report

METHOD = own_name(__name__)
unsupported = {"sdxl": "there is no unCLIP base of this family"}
formats = ("clip_image_embedding",)
axes = {"strength": 1.0, "noise_level": 0.0}

KEY = "clip_image_embeds"


class Params(OwnBase, HasTags, Trained, HasPreview, MethodParams):
    """The method's params.yaml."""

    start: Literal["pictures", "mean"]
    templates: list[str] = Field(min_length=1)
    noise_level: int = Field(ge=0, le=999)
    guidance: float = Field(ge=1, le=100)
    pull: float = Field(ge=0, le=1e6)
    clip_skip: int = Field(ge=0, le=10)
    save: Literal["fp32", "fp16"]

    @model_validator(mode="after")
    def _with_captions(self) -> Self:
        refuse_idle_tags(self.tags, self.templates)
        return self


def build(
    *, base: Base, images: Images, pictures: Pictures, captions: Captions, params: Params, report: Report
) -> Artifact:
    """Train the embedding, normalised with the base's mean and std, so that the base predicts the pictures from it."""
    import torch

    from etude.base.conditioning import Conditioning
    from etude.base.text import encode_prompts
    from etude.core.artifact import Artifact
    from etude.diffusion.hooks import supplied_picture
    from etude.training.batches import Batches
    from etude.training.fit import fit

    unclip, plan = _unclip(base), params.training
    unclip.refuse_noise(base.path, params.noise_level)
    device, varied = str(base.device), vary(captions, params.tags, report.seed)
    batches = Batches(images, varied, batch_size=plan.batch_size, seed=report.seed, device=device, encoded=False)
    start = _start(base, unclip, pictures, params.start)
    moved = start.clone().requires_grad_()
    shown = torch.empty_like(start)  # the embedding that is saved, and with which previews are drawn
    facts = {"name": params.name, "noise_level": params.noise_level}
    learned = Artifact(METHOD, {KEY: shown}, facts, params.save)

    @lru_cache(maxsize=1024)
    def encoded(text: str) -> Conditioning:
        with torch.no_grad():
            return encode_prompts(base, [text], params.clip_skip)

    def refresh() -> None:
        shown.copy_(unclip.unscale(moved.detach()))

    def loss(batch: Batch) -> Tensor:
        text_conditioning = Conditioning.cat([encoded(text) for text in _texts(batch, params)])
        value = _loss(base, batch, text_conditioning, encoded(""), unclip.unscale(moved), params)
        return value + params.pull * (moved - start).square().mean() if params.pull else value

    with supplied_picture(base, shown):
        return fit({KEY: moved}, loss, batches, plan, report, learned, refresh=refresh)


@contextmanager
def apply(artifact: Artifact, base: Base, strength: float = 1.0, noise_level: float = 0.0) -> Iterator[Base]:
    """Condition the base on the embedding; on exit this is undone.

    ``strength`` is the share of the way to the embedding, along an arc: from an embedding that is already supplied (so
    several artifacts are interpolated), else from the mean of the base's embeddings. A higher ``noise_level`` (0 to
    999) gives pictures more freedom.
    """
    from etude.diffusion.hooks import supplied_picture
    from etude.diffusion.interpolation import slerp

    unclip = _unclip(base)
    own = unclip.scale(artifact.tensors[KEY].to(unclip.mean))
    before = unclip.scale(unclip.supplied[-1].embedding) if unclip.supplied else own.new_zeros(own.shape)
    between = unclip.unscale(slerp(before, own, strength))
    with supplied_picture(base, between, round(min(max(noise_level, 0.0), 999.0))) as conditioned:
        yield conditioned


def _texts(batch: Batch, params: Params) -> list[str]:
    """A filled-in template for each picture; without a trigger word, it does not contain the name."""
    texts = draw(params.templates, batch.texts, params.name)
    return [fill(text, params.word) for text in texts]


def _loss(
    base: Base, batch: Batch, text_conditioning: Conditioning, nothing: Conditioning, embedding: Tensor, params: Params
) -> Tensor:
    """The denoising loss of u + γ · (c - u).

    c is conditioned on ``embedding`` [1, d] and ``text_conditioning`` [B, 77, d], u on ``nothing`` [1, 77, d].
    """
    import torch

    from etude.diffusion.noise import predict, target
    from etude.training.denoising import sample_noisy, weight_losses

    unclip, count = _unclip(base), len(batch.names)
    level = torch.randint(params.noise_level + 1, (count,), device=base.device)
    embeddings = embedding.expand(count, -1)
    conditioning = unclip.add_picture(text_conditioning, embeddings, torch.randn_like(embeddings), level)
    samples = sample_noisy(base, batch.mean, batch.logvar, params.training)
    answer = predict(base, samples.noisy, samples.timesteps, conditioning)
    if params.guidance != 1:
        with torch.no_grad():
            rows = torch.zeros(count, dtype=torch.int64, device=base.device)  # a list would be copied to the device
            unconditional = predict(base, samples.noisy, samples.timesteps, unclip.add_no_picture(nothing[rows]))
        answer = unconditional + params.guidance * (answer - unconditional)
    wanted = target(base, samples.latents, samples.noise, samples.timesteps)
    errors = (answer.to(wanted) - wanted).square().mean(dim=(1, 2, 3))
    return weight_losses(base, errors, samples.timesteps, params.training).mean()


def _unclip(base: Base) -> Unclip:
    """How the base is conditioned on pictures; raises BaseError if it is not an unCLIP base."""
    from etude.core.errors import BaseError

    if base.unclip is None:
        action = f"set `base` in pipelines/{METHOD}/params.yaml to an unCLIP base, such as models/miniature-unclip"
        raise BaseError(base.path, f"is no unCLIP base, and {METHOD} needs one", action)
    return base.unclip


def _start(base: Base, unclip: Unclip, pictures: Pictures, where: str) -> Tensor:
    """The first embedding [1, d], normalised: the mean of the pictures, or of all pictures that trained the base.

    A base of image variations has no mean and std of embeddings: there embeddings are not normalised, and ``mean`` is
    0, which is no picture's embedding.
    """
    from etude.base.vision import embed_pictures

    if where == "mean":
        return unclip.mean.new_zeros(unclip.mean.shape)
    folders = base.path / "image_encoder", base.path / "feature_extractor"
    mean = embed_pictures(*folders, pictures.pixels, base.device).mean(dim=0, keepdim=True)
    return unclip.scale(mean.to(unclip.mean))
