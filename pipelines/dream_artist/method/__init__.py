"""DreamArtist: two words learned with guidance, one for the prompt and one for the negative prompt (arXiv:2211.11337).

c is the UNet's output for a text with the positive word, u that for the same text with the negative word (or, if texts
are captions, for the negative word alone). The loss is that of u + γ(t) · (c - u), as in drawing (Dong et al., 2022).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from etude.core.families import text_rows
from etude.core.method import own_name
from etude.core.placeholder import NAME, insert_name
from etude.core.prepared import EVEN
from etude.training.tags import vary
from etude.training.templates import draw, refuse_silent

from .guidance import Guidance, parse_guidance
from .settings import Params, Word

if TYPE_CHECKING:
    from torch import Tensor

    from etude.base.base import Base
    from etude.base.conditioning import Conditioning
    from etude.core.artifact import Artifact
    from etude.training.batches import Batch, Captions, Images
    from etude.training.denoising import NoisySamples
    from etude.training.plan import Optimization
    from etude.training.report import Report

    Rows = Mapping[str, tuple[Tensor, ...]]  # side → [n, d] for each text encoder

METHOD = own_name(__name__)
unsupported: dict[str, str] = {}
formats = ("embedding_pair",)
axes: dict[str, float] = {}  # none: the guidance of the sampler sets the strength

SIDES = {"positive": "", "negative": "-neg"}  # suffix of the name for the word of each side


def build(*, base: Base, images: Images, captions: Captions | None, params: Params, report: Report) -> Artifact:
    """Train the rows of both words."""
    from etude.base.text import encode_prompts
    from etude.core.artifact import Artifact
    from etude.training.batches import Batches
    from etude.training.denoising import sample_noisy
    from etude.training.fit import fit
    from etude.training.updates import Group

    plan, guidance = params.training, parse_guidance(params.guidance)
    refuse_silent(params.templates, captions.texts if captions else {}, params.name, params.set, params.tags)
    captions = captions and vary(captions, params.tags, report.seed)
    device = str(base.device)
    size, seed = plan.batch_size, report.seed
    even = EVEN / 255
    batches = Batches(images, captions, batch_size=size, seed=seed, device=device, encoded=False, unmasked=even)
    rows = _starts(base, params, report.seed)

    positive, negative = (_named(base, rows, side) for side in SIDES)
    learned = Artifact(METHOD, {**positive, **negative}, {"name": params.name}, params.save)

    def loss(batch: Batch) -> Tensor:
        towards = draw(params.templates, batch.texts or [""] * len(batch.names), params.name)
        away = (
            [NAME] * len(towards) if batch.texts else towards
        )  # captions are in the positive text only, as in drawing
        texts = [insert_name(text, params.name) for text in towards]
        texts += [insert_name(text, params.name + SIDES["negative"]) for text in away]
        both = encode_prompts(base, texts, params.clip_skip)
        samples = sample_noisy(base, batch.mean, batch.logvar, plan)
        answer = _guided(base, samples, both, guidance)
        weight = _weight(batch.attention) if params.attention and batch.attention is not None else None
        losses = _losses(base, samples, answer, plan, weight)
        if params.reconstruction:
            losses = losses + params.reconstruction * _distances(base, samples, answer, batch.mean)
        return losses.mean()

    groups = [Group(positive), Group(negative, params.negative_rate)]
    with _spoken(base, params.name, rows):
        return fit(groups, loss, batches, plan, report, learned)


@contextmanager
def apply(artifact: Artifact, base: Base) -> Iterator[Base]:
    """Add both words to the base, and the negative word to every negative prompt; on exit both are undone."""
    rows = {side: tuple(text_rows(artifact.tensors, f"{side}.")) for side in SIDES}
    with _spoken(base, artifact.facts["name"], rows) as changed:
        yield changed


@contextmanager
def _spoken(base: Base, name: str, rows: Rows) -> Iterator[Base]:
    """Within the block, both words can be used, and the negative word is in every negative prompt."""
    from etude.diffusion.hooks import added_tokens, extra_negative_prompt

    words = {name + end: rows[side] for side, end in SIDES.items()}
    with added_tokens(base, words), extra_negative_prompt(base, name + SIDES["negative"]) as changed:
        yield changed


def _named(base: Base, rows: Rows, side: str) -> dict[str, Tensor]:
    """The rows of a side by their names in the artifact."""
    return {f"{side}.{part}": row for part, row in zip(base.text_parts, rows[side], strict=True)}


def _starts(base: Base, params: Params, seed: int) -> Rows:
    """Initial rows, leaves in float32: those of each side's initializer, with a little noise."""
    import torch

    from etude.core.randomness import generator
    from etude.training.words import starting_rows

    rows = {}
    for side in SIDES:
        word: Word = getattr(params, side)
        source = generator(seed, side)
        started = starting_rows(base, word.initializer, word.vectors)
        noises = [torch.randn(start.shape, generator=source).to(start.device) for start in started]
        rows[side] = tuple(
            (start + word.noise * noise).requires_grad_() for start, noise in zip(started, noises, strict=True)
        )
    return rows


def _guided(base: Base, samples: NoisySamples, both: Conditioning, guidance: Guidance) -> Tensor:
    """u + γ(t) · (c - u) [B, 4, h, w], from one batch of 2B; ``both``: the positive texts, then the negative ones."""
    import torch

    from etude.diffusion.noise import predict

    c, u = predict(base, torch.cat([samples.noisy] * 2), torch.cat([samples.timesteps] * 2), both).chunk(2)
    return u + guidance.at(samples.timesteps, len(base.alphas_cumprod)).to(u) * (c - u)


def _losses(base: Base, samples: NoisySamples, answer: Tensor, plan: Optimization, weight: Tensor | None) -> Tensor:
    """One loss for each sample [B]: the squared error of the answer, weighted by ``weight`` [B, 1, h, w]."""
    from etude.diffusion.noise import target
    from etude.training.denoising import weight_losses

    wanted = target(base, samples.latents, samples.noise, samples.timesteps)
    errors = (answer.float() - wanted.float()).square()
    if weight is not None:
        errors = errors * weight
    return weight_losses(base, errors.mean(dim=(1, 2, 3)), samples.timesteps, plan)


def _distances(base: Base, samples: NoisySamples, answer: Tensor, mean: Tensor) -> Tensor:
    """L1 distance [B] between the pictures decoded from the answers and those decoded from the latents ``mean``."""
    import torch

    from etude.diffusion.noise import original

    with torch.no_grad():
        pictures = _decoded(base, mean * base.scaling_factor)
    reconstructed = _decoded(base, original(base, samples.noisy, answer, samples.timesteps))
    return (reconstructed.float() - pictures.float()).abs().mean(dim=(1, 2, 3))


def _decoded(base: Base, latents: Tensor) -> Tensor:
    """Pixels [B, 3, H, W], about -1 to 1. They are not clamped, so that every pixel has a gradient."""
    from etude.training.autocast import outside_fp16

    with outside_fp16(base.device.type):  # many VAEs overflow in it
        pixels: Tensor = base.vae.decode(latents.to(base.vae.dtype) / base.scaling_factor, return_dict=False)[0]
    return pixels


def _weight(attention: Tensor) -> Tensor:
    """From the grey of an attention mask, 0 to 1, to the weight of a place: 0, ¼, ½, ¾, 1 → 0, ½, 1, 3, 5."""
    grey = 255 * attention
    return (grey / 127).where(grey <= 127, (grey - 127) / 128 * 4 + 1)
