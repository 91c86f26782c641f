"""One batch of pictures: from latents to embeddings, and how well each picture is reconstructed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import repeat
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from etude.base.base import Base
from etude.base.conditioning import Conditioning
from etude.base.latents import decode_latents
from etude.base.waiting import absent
from etude.core.errors import TrainingError
from etude.core.memory import during
from etude.training.batches import Captions, Images, Pictures
from etude.training.report import Report

from .inversion import Inversion
from .path import draw, pivot

KINDS = ("vae", "ddim", "null_text")  # reconstructed by the VAE alone; without and with the optimisation


@dataclass
class Progress:
    """The state of a run. It is saved at every step, so that a killed run can resume."""

    step: int = 0
    latents: dict[str, Tensor] = field(default_factory=dict)  # picture → z*_N [1, 4, h, w]
    embeddings: dict[str, Tensor] = field(default_factory=dict)  # picture → ∅ [N, 77, d]
    scores: dict[str, dict[str, float]] = field(default_factory=dict)  # picture → kind → PSNR in dB
    drawn: dict[str, Tensor] = field(default_factory=dict)  # picture → uint8 [kinds, H, W, 3]
    nothing: list[Tensor] = field(default_factory=list)  # of the present batch: ∅ [B, 77, d] for each finished step
    z: Tensor | None = None  # of the present batch: z̄ [B, 4, h, w] after the last finished step

    def state(self) -> dict[str, Any]:
        """As a dictionary of plain values and tensors."""
        return {name: getattr(self, name) for name in asdict(Progress())}


@dataclass(frozen=True)
class Batch:
    """Pictures of one size: names, latents [B, 4, h, w], the conditioning of their captions, and pixels."""

    names: Sequence[str]
    latents: Tensor
    text_conditioning: Conditioning
    empty: Conditioning  # [B, 77, d]
    pictures: Sequence[Tensor]  # uint8 [H, W, 3]


@dataclass(frozen=True)
class Album:
    """An image set: its latents, its texts, its pixels."""

    images: Images
    captions: Captions
    pictures: Pictures

    def batches(self, base: Base, count: int, size: int) -> list[Batch]:
        """At most ``count`` pictures, evenly chosen, no copies, in batches of at most ``size`` of one shape."""
        mean, own = self.images.mean, set(self.pictures.names)
        places = [i for i, name in enumerate(self.images.names) if name in own]
        count = min(count, len(places))
        chosen = [places[number * len(places) // count] for number in range(count)]
        batches = []
        for shape in sorted({tuple(mean[i].shape) for i in chosen}):
            group = [i for i in chosen if tuple(mean[i].shape) == shape]
            for first in range(0, len(group), size):
                batches.append(self._batch(base, group[first : first + size]))
        return batches

    def _batch(self, base: Base, chosen: Sequence[int]) -> Batch:
        names = [self.images.names[i] for i in chosen]
        latents = torch.stack([self.images.mean[i] for i in chosen]) * base.scaling_factor
        text_conditioning = Conditioning.cat([self.captions.conditioning[name] for name in names])
        wide = torch.promote_types(
            base.dtype, torch.float32
        )  # optimised tensors are wide, whatever the base's weights are
        return Batch(
            names,
            latents.to(base.device, wide),
            text_conditioning.to(base.device, wide),
            self.captions.empty.to(base.device, wide)[[0] * len(names)],
            [self.pictures.pixels[self.pictures.names.index(name)] for name in names],
        )


def invert(inversion: Inversion, batch: Batch, progress: Progress, report: Report) -> None:
    """Invert a batch, from the step in ``progress`` on; the pivot is computed again, with the same result."""
    base, path = inversion.base, inversion.path
    way = pivot(base, batch.latents, batch.text_conditioning, path)
    z = way[-1] if progress.z is None else progress.z.to(way[-1])
    for i in range(len(progress.nothing), len(path)):
        start = progress.nothing[-1].to(batch.empty.hidden) if progress.nothing else batch.empty.hidden
        with during(f"step {progress.step + 1} of the inversion"):
            nothing, errors = inversion.optimise(z, way[len(path) - i - 1], replace(batch.empty, hidden=start), i)
        _refuse_nan(errors, batch.names, path.times[i])
        z = inversion.advance(z, replace(batch.empty, hidden=nothing), i)
        progress.nothing.append(nothing.cpu())  # on the CPU, like those of a resumed run
        progress.z, progress.step = z, progress.step + 1
        report.log(progress.step, float(errors.mean()), inversion.rate(i))
        if i == len(path) - 1:
            _finish(inversion, batch, way[-1], progress)
        report.keep(progress.state())
        report.advance(progress.step)


def _finish(inversion: Inversion, batch: Batch, noise: Tensor, progress: Progress) -> None:
    """Move the batch's results into the results of the run, and compare the reconstructions with the pictures."""
    assert progress.z is not None
    base = inversion.base
    plain = draw(base, noise, batch.text_conditioning, repeat(batch.empty), inversion.guidance, inversion.path)
    with absent(base, "unet"):  # beside a UNet in float32, decoding 1024 px needs more memory than optimising
        drawn = [decode_latents(base, latents) for latents in (batch.latents, plain, progress.z)]
    for number, name in enumerate(batch.names):
        truth = batch.pictures[number]
        progress.latents[name] = noise[number : number + 1]
        progress.embeddings[name] = torch.stack([each[number] for each in progress.nothing])
        progress.drawn[name] = torch.stack([each[number] for each in drawn])
        progress.scores[name] = {kind: psnr(each[number], truth) for kind, each in zip(KINDS, drawn, strict=True)}
    progress.nothing, progress.z = [], None


def _refuse_nan(errors: Tensor, names: Sequence[str], t: int) -> None:
    strange = [name for name, error in zip(names, errors.tolist(), strict=True) if not error < float("inf")]
    if strange:
        action = "lower `guidance` or `optimization.learning_rate`, or leave the picture out"
        raise TrainingError(f"timestep {t}", f"the error is not finite on {', '.join(strange)}", action)


def psnr(picture: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 pictures [H, W, 3]."""
    error = (picture.double() - truth.double()).square().mean()
    return float(10 * torch.log10(255.0**2 / error.clamp(min=1e-12)))


def measures(scores: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The fact `measures` for the method's page: the mean PSNR, compared with plain DDIM and with the VAE alone."""
    means = {}
    for kind in KINDS:
        means[kind] = sum(each[kind] for each in scores.values()) / len(scores)
    about = (
        "dB between the pictures and what is drawn of them again; base: plain DDIM; real: the VAE alone, the ceiling"
    )
    values = {"value": means["null_text"], "base": means["ddim"], "real": means["vae"]}
    rounded = {name: float(f"{value:.6g}") for name, value in values.items()}
    return {"psnr": {"name": "PSNR", "better": "higher", "about": about, **rounded}}


def sheet(progress: Progress, pictures: Mapping[str, Tensor]) -> Image.Image:
    """One row for each picture: the original, and its reconstructions by the VAE, plain DDIM and null-text."""
    rows = [torch.cat([pictures[name], *drawn.cpu()], dim=1).numpy() for name, drawn in progress.drawn.items()]
    width = max(row.shape[1] for row in rows)
    return Image.fromarray(np.concatenate(list(_wide(rows, width)), axis=0))


def _wide(rows: Sequence[Any], width: int) -> Iterator[Any]:
    for row in rows:
        yield np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255)
