"""Prior preservation: a method also learns pictures of the class, because without them the model forgets the class.

L = mean loss of the own pictures + λ · mean loss of the class pictures (Ruiz et al., 2022, arXiv:2208.12242). The
weight of each sample depends on its own timestep, in both terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from etude.base.base import Base
from etude.base.conditioning import Conditioning
from etude.core.errors import InputError
from etude.core.randomness import mix
from etude.training import conditioning
from etude.training.batches import Batch, Batches, Captions, Images, load_captions, load_images
from etude.training.denoising import denoising_losses
from etude.training.plan import Optimization

DRAWN = "drawn"  # the folder of class images that the base drew; those of real pictures are beside it


@dataclass(frozen=True)
class Prior:
    """Pictures of the class, and their captions."""

    images: Images
    captions: Captions


@dataclass(frozen=True)
class Pair:
    """A batch of own pictures and a batch of class pictures; the latter is None without prior preservation."""

    own: Batch
    prior: Batch | None

    @property
    def names(self) -> tuple[str, ...]:
        """One name a sample."""
        return self.own.names + (self.prior.names if self.prior else ())


def load_prior(folder: Path | str, real: Sequence[str]) -> Prior:
    """Read ``artifacts/<method>/class_images``: drawn pictures and the image sets ``real``; the folder is in each name.

    The result may be empty: a run without prior preservation needs no class pictures. `pairs` checks this.
    """
    means: dict[str, Tensor] = {}
    logvars: dict[str, Tensor] = {}
    texts: dict[str, str] = {}
    encoded: dict[str, Conditioning] = {}
    for place in (Path(folder, name) for name in (DRAWN, *real)):
        captions = load_captions(place / "texts")
        if not any((place / "latents").glob("*.safetensors")):
            continue  # no pictures in this folder
        own = load_images(place / "latents")
        for name, mean, logvar in zip(own.names, own.mean, own.logvar, strict=True):
            full = f"{place.name}/{name}"
            means[full], logvars[full], texts[full] = mean, logvar, captions.texts[name]
            encoded[full] = captions.conditioning[name]
    images = Images(tuple(means), tuple(means.values()), tuple(logvars.values()))
    return Prior(images, Captions(texts, encoded, captions.empty))


def pairs(own: Batches, prior: Prior, base: Base, *, batch_size: int, clip_skip: int) -> Pairs:
    """Batches of own and class pictures; with ``batch_size`` 0, of own pictures only.

    Raises InputError if there are no class pictures.
    """
    if not batch_size:
        return Pairs(own, None)
    if not prior.images.names:
        action = "raise `class_images.count`, name an image set in `class_images.real`, or set `prior_weight: 0`"
        raise InputError("class_images", "contain no pictures of the class", action)
    captions = conditioning.apply_wording(base, prior.captions, conditioning.PLAIN, "", clip_skip)
    seed, device = mix(own.seed, "class"), str(base.device)
    return Pairs(own, Batches(prior.images, captions, batch_size=batch_size, seed=seed, device=device))


class Pairs:
    """``pairs(i)``: the i-th pair, a pure function of i."""

    def __init__(self, own: Batches, prior: Batches | None) -> None:
        self.own, self.prior = own, prior

    def __call__(self, index: int) -> Pair:
        """Pair number ``index``."""
        return Pair(self.own(index), self.prior(index) if self.prior else None)


def preserving_loss(
    base: Base,
    pair: Pair,
    text: Conditioning,
    plan: Optimization,
    weight: float,
    mask: Tensor | None = None,
) -> Tensor:
    """The loss of a pair, with λ = ``weight``. ``text`` is the conditioning of the own samples, then of the class's.

    ``mask`` [B, 1, h, w] is 1 where an own picture counts. If both batches have the same size, the UNet runs once.
    """
    own, prior = pair.own, pair.prior
    count = len(own.names)
    if prior is None:
        return denoising_losses(base, own.mean, own.logvar, text, plan, mask).mean()
    if own.mean.shape[1:] == prior.mean.shape[1:]:
        mean, logvar = torch.cat([own.mean, prior.mean]), torch.cat([own.logvar, prior.logvar])
        if mask is not None:
            mask = torch.cat([mask, torch.ones_like(mask[:1]).expand(len(prior.names), -1, -1, -1)])
        losses = denoising_losses(base, mean, logvar, text, plan, mask)
        return losses[:count].mean() + weight * losses[count:].mean()
    first = denoising_losses(base, own.mean, own.logvar, text[:count], plan, mask)
    second = denoising_losses(base, prior.mean, prior.logvar, text[count:], plan)
    return first.mean() + weight * second.mean()
