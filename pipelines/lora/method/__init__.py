"""LoRA: a low-rank change to the attention weights (Hu et al., 2021, arXiv:2106.09685); variants: DoRA, LoHa, LoKr.

W' = W + strength · α/r · B·A, with A [r, in] random and B [out, r] zero at the start; only A and B are trained. The
formulas of the variants are in `etude.diffusion.factors`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from etude.core.method import own_name

from .settings import Params

if TYPE_CHECKING:
    from torch import Tensor

    from etude.base.base import Base
    from etude.core.artifact import Artifact
    from etude.training.batches import Captions, Images
    from etude.training.prior import Pair, Prior
    from etude.training.report import Report
    from etude.training.updates import Group

METHOD = own_name(__name__)
unsupported: dict[str, str] = {}
formats = ("kohya_lora", "diffusers_lora")
axes = {"strength": 1.0}


def build(
    *, base: Base, images: Images, captions: Captions, class_images: Prior | None, params: Params, report: Report
) -> Artifact:
    """Train the factors of the UNet, and those of the text encoders if ``text_encoder_rate`` is above 0."""
    from etude.core.artifact import Artifact
    from etude.training import conditioning, prior
    from etude.training.fit import fit

    from .adapters import alphas, inserted, saved_form

    plan = params.training
    batches, captions, read = conditioning.captioned(base, images, captions, params, report)
    size, skip = params.prior_batch_size if params.prior_weight else 0, params.clip_skip
    texts = report.texts.with_name(f"class-{report.texts.name}")
    pairs = prior.pairs(batches, class_images, base, batch_size=size, clip_skip=skip, folder=texts)
    facts: dict[str, Any] = {"name": params.name, "rank": params.rank, "alpha": params.alpha}
    facts |= {"images": len(images.names), "tags": dict(Counter(captions.texts[name] for name in images.names))}
    facts |= {} if params.kind in ("lora", "dora") else {"formats": ["kohya_lora"]}  # diffusers supports no other kind
    with inserted(base, params, report.seed) as parameters:
        facts |= {"alphas": others} if (others := alphas(list(parameters), params)) else {}
        tensors = {name: saved_form(name, tensor) for name, tensor in parameters.items()}
        learned = Artifact(METHOD, tensors, facts, params.save)

        def loss(pair: Pair) -> Tensor:
            text = prior.with_class(base, read(pair.own), pair, skip, live=params.text_encoder_rate > 0)
            weights = params.cell_weights(pair.own.attention)
            return prior.preserving_loss(base, pair, text, plan, params.prior_weight, weights)

        return fit(_groups(parameters, params), loss, pairs, plan, report, learned)


@contextmanager
def apply(artifact: Artifact, base: Base, strength: float = 1.0) -> Iterator[Base]:
    """Add the change, ``strength`` times, and the words that are in the file; on exit both are undone exactly."""
    from etude.core.families import text_rows
    from etude.diffusion.factors import added
    from etude.diffusion.hooks import added_tokens

    names = enumerate(artifact.facts.get("words", []))
    words = {word: text_rows(artifact.tensors, f"words.{i}.") for i, word in names}
    with ExitStack() as undo:
        undo.enter_context(added(base, artifact.tensors, artifact.facts, strength))
        if words:
            undo.enter_context(added_tokens(base, words))
        yield base


def _groups(parameters: Mapping[str, Tensor], params: Params) -> list[Group]:
    """The factors of UNet and text encoders with their learning rates; with LoRA+, the B factors are in own groups."""
    from etude.training.rates import groups
    from etude.training.updates import Group

    shared = groups(parameters, params.text_encoder_rate)
    if params.plus == 1:
        return shared
    halves = []
    for group in shared:
        b = {name: tensor for name, tensor in group.parameters.items() if ".lora_B." in name}
        others = {name: tensor for name, tensor in group.parameters.items() if name not in b}
        halves += [Group(others, group.rate), Group(b, group.rate * params.plus)]
    return halves
