"""The sampler of a base while an inversion is applied: it draws inverted pictures, edited by the prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from etude.base.base import Base
from etude.base.conditioning import Conditioning
from etude.base.latents import decode_latents
from etude.base.text import encode_prompts
from etude.core.artifact import Artifact
from etude.core.errors import BaseError, InputError
from etude.diffusion.noise import predict

from .attention import Control, Edit, controlled, edit, read_weights
from .path import draw, plan, towards_picture


@dataclass(frozen=True)
class Inverted:
    """One picture: its noise [1, 4, h, w], ∅ [N, 77, d] for each step, and the caption of its inversion."""

    latent: Tensor
    nothing: Tensor
    caption: str


class EditingSampler:
    """Draws the inverted pictures: seed s selects the s-th picture, modulo their number."""

    def __init__(self, base: Base, artifact: Artifact, cross_replace: float, self_replace: float) -> None:
        facts = artifact.facts
        self.base, self.cross_replace, self.self_replace = base, cross_replace, self_replace
        self.guidance, self.clip_skip = float(facts["guidance"]), int(facts["clip_skip"])
        self.path = plan(base, int(facts["steps"]))
        self.pictures = [_inverted(artifact, name) for name in facts["pictures"]]
        width = sum(encoder.config.hidden_size for encoder in base.text_encoders)
        if list(self.path.times) != facts["timesteps"] or self.pictures[0].nothing.shape[-1] != width:
            fault = "has other timesteps or another text width than the base of these inversions"
            raise BaseError(base.path, fault, "apply them to the base with which they were made")

    def __call__(self, prompts: Sequence[str] | Conditioning, seeds: Sequence[int], width: int, height: int) -> Tensor:
        """uint8 [B, height, width, 3] on the CPU: picture ``seeds[i]``, edited by ``prompts[i]``."""
        if isinstance(prompts, Conditioning):
            raise InputError("prompts", "must be texts: an inverted picture is edited by its text", "give texts")
        pictures: dict[int, Tensor] = {}
        chosen = [self.pictures[seed % len(self.pictures)] for seed in seeds]
        for size in sorted({tuple(picture.latent.shape) for picture in chosen}):
            rows = [i for i, picture in enumerate(chosen) if tuple(picture.latent.shape) == size]
            latents = self._latents([chosen[i] for i in rows], [prompts[i] for i in rows])
            pictures |= dict(zip(rows, _sized(decode_latents(self.base, latents), width, height), strict=True))
        return torch.stack([pictures[i] for i in range(len(chosen))])

    @torch.no_grad()
    def _latents(self, pictures: Sequence[Inverted], prompts: Sequence[str]) -> Tensor:
        base, olds = self.base, [picture.caption for picture in pictures]
        z = torch.cat([picture.latent for picture in pictures])
        z = z.to(base.device, torch.promote_types(base.dtype, torch.float32))
        old = encode_prompts(base, olds, self.clip_skip)
        halves = list(self._nothing(pictures, old))
        if list(prompts) == olds:
            return draw(base, z, old, iter(halves), self.guidance, self.path)
        new = encode_prompts(base, [read_weights(prompt)[0] for prompt in prompts], self.clip_skip)
        edits = [edit(base, *texts) for texts in zip(olds, prompts, strict=True)]
        return self._edited(z, old, new, halves, edits)

    def _edited(
        self, z: Tensor, old: Conditioning, new: Conditioning, halves: Sequence[Conditioning], edits: Sequence[Edit]
    ) -> Tensor:
        """Draw both pictures in one batch; in the first steps, the old one's attention is copied to the new one."""
        base, control, count = self.base, Control(edits, self.base.device), len(self.path)
        both = torch.cat([z, z])
        with controlled(base.unet, control):
            for i, nothing in enumerate(halves):
                control.cross = i < self.cross_replace * count
                control.self_ = i < self.self_replace * count
                t = torch.tensor(self.path.times[i], device=base.device)
                noisy = torch.cat([both, both]).to(base.dtype)
                answers = predict(base, noisy, t, Conditioning.cat([nothing, nothing, old, new])).to(both.dtype)
                u, c = answers.chunk(2)
                both = towards_picture(base, u + self.guidance * (c - u), both, self.path, i)
        return both.chunk(2)[1]

    def _nothing(self, pictures: Sequence[Inverted], like: Conditioning) -> Iterator[Conditioning]:
        """The conditioning of the unconditional half for each step; SDXL's pooled state is that of the empty text."""
        empty = encode_prompts(self.base, [""], self.clip_skip)[[0] * len(pictures)]
        for i in range(len(self.path)):
            hidden = torch.stack([picture.nothing[i] for picture in pictures]).to(like.hidden)
            yield Conditioning(hidden, empty.pooled)


def _inverted(artifact: Artifact, name: str) -> Inverted:
    latent, nothing = (artifact.tensors[f"{name}.{kind}"] for kind in ("latent", "null_embeddings"))
    return Inverted(latent, nothing, artifact.facts["captions"][name])


def _sized(pictures: Tensor, width: int, height: int) -> Tensor:
    """uint8 [B, height, width, 3]; inverted pictures are drawn in their own size, and scaled if another is needed."""
    if pictures.shape[1:3] == (height, width):
        return pictures
    scaled = interpolate(pictures.permute(0, 3, 1, 2).float(), (height, width), mode="bilinear", antialias=True)
    return scaled.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
