"""Prior preservation: a method also learns pictures of the class, because without them the model forgets the class.

L = mean loss of the own pictures + λ · mean loss of the class images (Ruiz et al., 2022, arXiv:2208.12242). The
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
from etude.core.shards import Shards
from etude.diffusion.noise import size_ids
from etude.training import conditioning
from etude.training.batches import Batch, Batches, Captions, Images, captions_of, read_repeats, read_texts
from etude.training.denoising import denoising_losses
from etude.training.plan import Optimization
from etude.training.sets import Place

DRAWN = "drawn"  # the folder of class images that the base drew; folders of real pictures are beside it


@dataclass(frozen=True)
class Prior:
    """Pictures of the class, and their captions."""

    images: Images
    captions: Captions


@dataclass(frozen=True)
class Pair:
    """A batch of own pictures and a batch of class images; the latter is None without prior preservation."""

    own: Batch
    prior: Batch | None

    @property
    def names(self) -> tuple[str, ...]:
        """One name for each sample."""
        return self.own.names + (self.prior.names if self.prior else ())


def load_prior(folder: Path | str, real: Sequence[str]) -> Prior:
    """Open ``artifacts/<method>/class_images``: drawn pictures and the sets ``real``. Names are ``<folder>/<id>``.

    The result may be empty: a run without prior preservation needs no class images. `pairs` checks this.
    """
    names = (DRAWN, *real)
    pictures = [Place(f"{name}/", Path(folder, name, "latents")) for name in names]
    texts = [Place(f"{name}/", Path(folder, name, "texts")) for name in names]
    shards, said = Shards(*(place[:2] for place in pictures)), read_texts(*texts)
    if missing := [name for name in shards.names if name not in said]:
        raise InputError(
            ", ".join(missing[:5]),
            "has no caption",
            "run `dvc repro` so that the stages class_images and real_class_images run",
        )
    repeats = read_repeats(shards.names, *pictures)
    images = Images(shards.names, shards.column("mean"), shards.column("logvar"), repeats=repeats)
    if not shards.names:
        return Prior(images, Captions({}, {}, Conditioning(torch.empty(0))))
    encoded = Shards(*(("", place.folder) for place in texts))
    return Prior(images, captions_of(encoded, {name: said[name] for name in shards.names}))


def pairs(own: Batches, prior: Prior | None, base: Base, *, batch_size: int, clip_skip: int, folder: Path) -> Pairs:
    """Batches of own and class images; with ``batch_size`` 0, or without a prior, of own pictures only.

    ``folder`` is passed to `apply_wording`. Raises InputError if there are no class images.
    """
    if not batch_size or prior is None:
        return Pairs(own, None)
    if not prior.images.names:
        action = "raise `class_images.count`, name an image set in `class_images.real`, or set `prior_weight: 0`"
        raise InputError("class_images", "contain no pictures of the class", action)
    captions = conditioning.apply_wording(base, prior.captions, conditioning.PLAIN, "", clip_skip, folder)
    seed, device = mix(own.seed, "class"), str(base.device)
    return Pairs(own, Batches(prior.images, captions, batch_size=batch_size, seed=seed, device=device))


def with_class(base: Base, text: Conditioning, pair: Pair, clip_skip: int, *, live: bool) -> Conditioning:
    """The conditioning ``text`` of a pair's own samples, then that of its class images, which ``live`` encodes now."""
    if pair.prior is None:
        return text
    other = conditioning.encode_live(base, pair.prior, 0.0, clip_skip) if live else pair.prior.conditioning
    assert other is not None
    return Conditioning.cat([text, other])


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
    weights: Tensor | None = None,
) -> Tensor:
    """The loss of a pair, with λ = ``weight``. ``text`` is the conditioning of the own samples, then of the class's.

    ``weights`` [B, 1, h, w] are those of the own pictures' cells in the loss; every cell of class images counts. If
    both batches have the same size, the UNet runs once.
    """
    own, prior = pair.own, pair.prior
    cells, count = own.cells, len(own.names)
    if prior is None:
        return denoising_losses(base, own.mean, own.logvar, text, plan, weights, cells, own.sizes).mean()
    if own.mean.shape[1:] == prior.mean.shape[1:]:
        mean, logvar = torch.cat([own.mean, prior.mean]), torch.cat([own.logvar, prior.logvar])
        weights, cells = _with_ones(weights, len(prior.names)), _with_ones(cells, len(prior.names))
        sizes = None if own.sizes is None else torch.cat([own.sizes, size_ids(base, prior.mean)])
        losses = denoising_losses(base, mean, logvar, text, plan, weights, cells, sizes)
        return losses[:count].mean() + weight * losses[count:].mean()
    first = denoising_losses(base, own.mean, own.logvar, text[:count], plan, weights, cells, own.sizes)
    second = denoising_losses(base, prior.mean, prior.logvar, text[count:], plan)
    return first.mean() + weight * second.mean()


def _with_ones(mask: Tensor | None, count: int) -> Tensor | None:
    """A mask [B, 1, h, w] with ``count`` more samples, of which every cell counts."""
    return None if mask is None else torch.cat([mask, torch.ones_like(mask[:1]).expand(count, -1, -1, -1)])
