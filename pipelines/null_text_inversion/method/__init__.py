"""Null-text inversion: pictures as noise and embeddings from which the base draws them again (arXiv:2211.09794).

Mokady et al., 2022. DDIM inversion turns a picture into noise. Then, for each step, the empty text of guidance is
replaced by an embedding that is optimised so that drawing ends at the picture. With another prompt, drawing ends at an
edited picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from etude.base.settings import OneChunk
from etude.core.method import own_name
from etude.core.mixins import Captioned
from etude.core.params import Count, MethodParams, Part, Rate, Scale, Schema
from etude.training.plan import SavesMemory

if TYPE_CHECKING:
    from etude.base.base import Base
    from etude.core.artifact import Artifact
    from etude.training.batches import Captions, Images, Pictures
    from etude.training.report import Report

    from .batch import Progress

METHOD = own_name(__name__)
unsupported: dict[str, str] = {}
formats = ("null_text",)
axes = {"cross_replace": 0.8, "self_replace": 0.5}  # shares of the steps in which an edit copies attention


class Optimization(Schema):
    """The block `optimization`: how the null-text embeddings are optimised."""

    inner_steps: int = Field(ge=1, le=10_000)
    learning_rate: Rate
    stop: Scale
    stop_growth: Scale


class Params(Captioned, OneChunk, SavesMemory, MethodParams):
    """The method's params.yaml."""

    refused_keys: ClassVar = {"start": "each picture is inverted on its own, from the noise that it is turned into"}

    pictures: Count
    batch_size: Count
    steps: int = Field(ge=2, le=500)
    guidance: float = Field(gt=1, le=100)
    clip_skip: int = Field(ge=0, le=10)
    save: Literal["fp32", "fp16"]
    optimization: Optimization

    @property
    def base_parts(self) -> tuple[Part, ...]:
        """All parts: the VAE too, because drawn pictures are compared with the originals."""
        return ("unet", "vae", "text")

    @property
    def step_parts(self) -> tuple[Part, ...]:
        """Texts are encoded before the optimisation, and pictures decoded after it."""
        return ("unet",)

    def shortest(self) -> Self:
        """Two steps and one batch, each embedding optimised once."""
        once = self.optimization.model_copy(update={"inner_steps": 1})
        return self.model_copy(update={"steps": 2, "pictures": self.batch_size, "optimization": once})


def build(
    *, base: Base, images: Images, captions: Captions, pictures: Pictures, params: Params, report: Report
) -> Artifact:
    """Invert pictures of the set, batch by batch; a killed run resumes at the step where it was.

    With weights in half precision, steps are computed in it; otherwise in float32, as in the paper's code.
    """
    from etude.core.artifact import Artifact
    from etude.training import conditioning
    from etude.training.autocast import computing

    from .batch import Album, Progress, invert, sheet
    from .inversion import Inversion, Rule
    from .path import plan

    captions = conditioning.apply_wording(base, captions, params.caption, params.word, params.clip_skip, report.texts)
    groups = Album(images, captions, pictures).batches(base, params.pictures, params.batch_size)
    path, rule = plan(base, params.steps), Rule(**params.optimization.model_dump())
    progress = Progress(**(report.restore() or {}))
    total = len(groups) * len(path)
    report.prepared()
    report.start(progress.step, total)
    with computing(base.device.type, params.base_precision):
        for group in groups[progress.step // len(path) :]:
            invert(Inversion(base, path, group.text_conditioning, params.guidance, rule), group, progress, report)

    names = [name for group in groups for name in group.names]
    tensors = {f"{name}.latent": progress.latents[name] for name in names}
    tensors |= {f"{name}.null_embeddings": progress.embeddings[name] for name in names}
    artifact = Artifact(
        METHOD, tensors, _facts(names, captions, progress, list(path.times), params), params.save
    ).copied()
    pixels = {name: picture for group in groups for name, picture in zip(group.names, group.pictures, strict=True)}
    report.preview = lambda: sheet(progress, pixels)
    report.checkpoint(total, artifact)
    report.draw(total)
    return artifact


def _facts(
    names: Sequence[str], captions: Captions, progress: Progress, timesteps: list[int], params: Params
) -> dict[str, Any]:
    """The artifact's facts: what drawing needs, and how well each picture is reconstructed."""
    from .batch import measures

    return {
        "name": params.name,
        "pictures": names,
        "captions": {name: captions.texts[name] for name in names},
        "steps": params.steps,
        "timesteps": timesteps,
        "guidance": params.guidance,
        "clip_skip": params.clip_skip,
        "psnr": progress.scores,
        "measures": measures(progress.scores),
    }


@contextmanager
def apply(artifact: Artifact, base: Base, cross_replace: float = 0.8, self_replace: float = 0.5) -> Iterator[Base]:
    """Make the base draw the inverted pictures, edited by the prompt: seed s selects the s-th picture.

    Sampler, steps, guidance and negative prompt are those of the inversion. Raises BaseError for a base with another
    text width or other timesteps.
    """
    from etude.diffusion.hooks import custom_sampler

    from .custom_sampler import EditingSampler

    with custom_sampler(base, EditingSampler(base, artifact, cross_replace, self_replace)):
        yield base
