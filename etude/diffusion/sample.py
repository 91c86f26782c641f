"""Drawing pictures. `generate` has four steps that can also be used separately: encode, noise, denoise, decode.

A method with its own conditioning or guidance calls `denoise` with another model function; `guided` is the usual one
(classifier-free guidance, Ho & Salimans, 2022, arXiv:2207.12598).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from etude.base.base import Base
from etude.base.conditioning import Conditioning
from etude.base.latents import decode_latents
from etude.base.libraries import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
)
from etude.base.settings import SamplerName, Sampling
from etude.base.text import encode_prompts
from etude.base.unclip import with_image, without_image
from etude.core.errors import InputError
from etude.diffusion.noise import predict

__all__ = ["Sampling", "denoise", "draw_noise", "encode_negative", "generate", "generators", "guided", "make_scheduler"]

Model = Callable[[Tensor, Tensor, int], Tensor]  # (latents, t on their device, index of the step) → ε or v
Progress = Callable[[int, int], None]  # (steps done, steps)

_SCHEDULERS: dict[SamplerName, Any] = {
    "ddim": DDIMScheduler,  # Song et al., 2021, arXiv:2010.02502
    "euler": EulerDiscreteScheduler,  # Karras et al., 2022, arXiv:2206.00364
    "euler_a": EulerAncestralDiscreteScheduler,  # k-diffusion: new noise at each step
    "dpm++": DPMSolverMultistepScheduler,  # 2M: Lu et al., 2022, arXiv:2211.01095
}


@torch.no_grad()
def generate(
    base: Base,
    prompts: Sequence[str] | Conditioning,
    *,
    negative: str | Conditioning,
    seeds: Sequence[int],
    steps: int,
    guidance: float,
    sampler: SamplerName,
    width: int | None = None,
    height: int | None = None,
    clip_skip: int = 0,
    progress: Progress | None = None,
) -> Tensor:
    """Pictures uint8 [B, height, width, 3], one for each prompt and seed, all in one batch.

    A picture's noise comes from its own seed on the CPU, so it depends neither on the other pictures nor on the device.
    The size is in px, by default the base's resolution. With ``guidance`` ≤ 1, ``negative`` is not used. Conditioning
    may be given instead of texts. If the base has a custom sampler (`hooks.custom_sampler`), only prompts, seeds and
    size are used.
    """
    if len(prompts) != len(seeds):
        raise InputError("seeds", f"there are {len(seeds)} for {len(prompts)} prompts", "give one seed to each prompt")
    if base.custom_samplers:
        return base.custom_samplers[-1](prompts, seeds, width or base.resolution, height or base.resolution)
    conditioning = prompts if isinstance(prompts, Conditioning) else encode_prompts(base, prompts, clip_skip)
    conditioning = with_image(base.unclip, conditioning, seeds)
    negative_conditioning = encode_negative(base, negative, len(prompts), clip_skip) if guidance > 1 else None
    randomness = generators(seeds)
    noise = draw_noise(base, randomness, width or base.resolution, height or base.resolution)

    def model(latents: Tensor, t: Tensor, _index: int) -> Tensor:
        return guided(base, latents, t, conditioning, negative_conditioning, guidance)

    latents = denoise(model, make_scheduler(base, sampler, steps), noise, randomness, progress)
    return decode_latents(base, latents)


def guided(
    base: Base,
    latents: Tensor,
    t: Tensor,
    conditioning: Conditioning,
    negative_conditioning: Conditioning | None,
    guidance: float,
) -> Tensor:
    """u + guidance · (c - u), both halves in one batch of 2B; only c if ``negative_conditioning`` is None."""
    noisy = latents.to(base.dtype)
    if negative_conditioning is None:
        return predict(base, noisy, t, conditioning).to(latents.dtype)
    both = Conditioning.cat([without_image(base.unclip, negative_conditioning), with_image(base.unclip, conditioning)])
    u, c = predict(base, torch.cat([noisy, noisy]), t, both).to(latents.dtype).chunk(2)
    return u + guidance * (c - u)


@torch.no_grad()
def denoise(
    model: Model,
    scheduler: Any,
    noise: Tensor,
    randomness: Sequence[Generator] | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Latents [B, 4, h, w] from unit noise, by the scheduler's timesteps.

    The scheduler's timesteps stay on the CPU, where it reads them as numbers; the model gets a copy on the device. So
    the host waits for the device only at the end, except with new noise at each step (``euler_a``).
    """
    times = scheduler.timesteps
    on_device = times.to(noise.device)
    latents: Tensor = noise * scheduler.init_noise_sigma
    for index, t in enumerate(times):
        answer = model(scheduler.scale_model_input(latents, t), on_device[index], index)
        fresh = {} if randomness is None else {"generator": list(randomness)}
        latents = scheduler.step(answer, t, latents, return_dict=False, **fresh)[0]
        if progress is not None:
            progress(index + 1, len(times))
    return latents


def make_scheduler(base: Base, sampler: SamplerName, steps: int) -> Any:
    """diffusers' scheduler for a sampler, with the noise schedule, prediction and spacing of the base; on the CPU."""
    config = {"steps_offset": 1, **base.schedule, "prediction_type": base.prediction, "clip_sample": False}
    with warnings.catch_warnings():
        # diffusers 0.42 calls np.array with torch tensors, which is deprecated in NumPy 2
        warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
        scheduler = _SCHEDULERS[sampler].from_config(config)
        scheduler.set_timesteps(steps, device="cpu")
    return scheduler


def generators(seeds: Sequence[int]) -> list[Generator]:
    """A random generator on the CPU for each picture."""
    return [Generator("cpu").manual_seed(seed) for seed in seeds]


def draw_noise(base: Base, randomness: Sequence[Generator], width: int, height: int) -> Tensor:
    """Unit noise [B, 4, height/8, width/8] on the base's device, in float32 or wider: the same for all precisions.

    Raises InputError if the sides are not multiples of 8.
    """
    if width % base.factor or height % base.factor:
        raise InputError(
            "size", f"{width} × {height} px: both sides must be multiples of {base.factor}", "change the size"
        )
    shape = (4, height // base.factor, width // base.factor)
    noise = torch.stack([torch.randn(shape, generator=source) for source in randomness])
    return noise.to(device=base.device, dtype=torch.promote_types(base.dtype, torch.float32))


def encode_negative(base: Base, negative: str | Conditioning, count: int, clip_skip: int) -> Conditioning:
    """The conditioning of the unconditional half. An empty text is encoded like any other, also for SDXL (as in A1111).

    The texts of `hooks.extra_negative_prompt` are appended.
    """
    if isinstance(negative, Conditioning):
        return negative[[0] * count] if len(negative) == 1 else negative
    text = ", ".join(filter(None, [negative, *base.extra_negative_prompts]))
    return encode_prompts(base, [text], clip_skip)[[0] * count]
