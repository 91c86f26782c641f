"""Fine-tuning: all weights of the UNet, optionally also of the text encoders, are trained on captioned pictures.

The loss is that of the base's own training (Rombach et al., 2022, arXiv:2112.10752), on other pictures. The saved
weights are the average over the last steps (EMA), which is smoother than the weights of the last step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from etude.core.method import own_name
from etude.core.mixins import TrainsWeights
from etude.training.masks import MaskedLoss
from etude.training.plan import TrainedWhole
from etude.training.preview import HasPreview
from etude.training.sets import FurtherSets
from etude.training.sizes import TellsSizes
from etude.training.start import StartsWhole
from etude.training.tags import LearnsCaptions

if TYPE_CHECKING:
    from torch import Tensor

    from etude.base.base import Base
    from etude.core.artifact import Artifact
    from etude.training.batches import Batch, Captions, Images
    from etude.training.report import Report

METHOD = own_name(__name__)
unsupported: dict[str, str] = {}
formats = ("ldm_checkpoint", "diffusers_checkpoint")
axes = {"strength": 1.0}


class Params(LearnsCaptions, TrainsWeights, TellsSizes, MaskedLoss, StartsWhole, TrainedWhole, HasPreview, FurtherSets):
    """The method's params.yaml."""

    save: Literal["fp32", "fp16", "bf16"]


def build(*, base: Base, images: Images, captions: Captions, params: Params, report: Report) -> Artifact:
    """Train all weights of the UNet, and those of the text encoders if ``text_encoder_rate`` is above 0."""
    from etude.core.artifact import Artifact
    from etude.diffusion.weights import learning, parts_of
    from etude.training import conditioning
    from etude.training.denoising import denoising_loss
    from etude.training.fit import fit
    from etude.training.rates import groups

    plan = params.training
    batches, _, read = conditioning.captioned(base, images, captions, params, report)

    def loss(batch: Batch) -> Tensor:
        return denoising_loss(base, batch, read(batch), plan, params.cell_weights(batch.attention))

    with learning(parts_of(base), params.trains) as weights:
        facts = {"name": params.name, "images": len(images.names)}
        learned = Artifact(METHOD, dict(weights), facts, params.save)
        moving = groups(weights, params.text_encoder_rate)
        return fit(moving, loss, batches, plan, report, learned, release=params.gradient_release)


@contextmanager
def apply(artifact: Artifact, base: Base, strength: float = 1.0) -> Iterator[Base]:
    """Replace the base's weights; ``strength`` below 1 interpolates. On exit, the weights are exactly as before."""
    from etude.diffusion.weights import swapped

    with swapped(base, artifact.tensors, strength):
        yield base
