"""The values for noise and latents in a base's configuration, checked: wrong ones would give black pictures."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from torch import Tensor

from etude.base.bounds import check_config
from etude.base.libraries import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
)
from etude.core.errors import BaseError

Prediction = Literal["epsilon", "v_prediction"]
LONGEST = 1024  # side of latents: pictures of 8192 px
FEWEST = 500  # steps of the noise schedule: as many as the most steps of drawing
_BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
# What samplers take from a base: its noise schedule, and the timesteps at which they draw. Fields that choose or change
# a sampler (thresholding, Karras' sigmas, orders …) are ignored: `sampler` in params chooses it.
SCHEDULE = (*_BETAS, "timestep_spacing", "steps_offset", "set_alpha_to_one")
_SHIFTS = ("shift_factor", "latents_mean", "latents_std")  # of other autoencoders: latents would be shifted too
_VAE = "AutoencoderKL"
_SPACINGS = ("leading", "trailing", "linspace")  # which of all timesteps are used in drawing
_OTHERS = ("EDM", "Flow")  # in the names of schedulers for other kinds of noise
_SCHEDULERS = (  # that are made from a base's configuration
    DDPMScheduler,
    DDIMScheduler,
    EulerDiscreteScheduler,
    EulerAncestralDiscreteScheduler,
    DPMSolverMultistepScheduler,
)
_ACTION = "fetch the base again, or correct its configuration"


def read_prediction(path: Path, scheduler: Mapping[str, Any]) -> Prediction:
    """What the UNet predicts; raises BaseError for another kind of model."""
    prediction, name = scheduler.get("prediction_type", "epsilon"), str(scheduler.get("_class_name", ""))
    if prediction not in ("epsilon", "v_prediction") or any(other in name for other in _OTHERS):
        action = "choose a base with `prediction_type` epsilon or v_prediction, and no EDM or Flow scheduler"
        raise BaseError(
            path, f"its scheduler ({name or 'of no class'}, `prediction_type: {prediction}`) is not supported", action
        )
    if (spacing := scheduler.get("timestep_spacing", _SPACINGS[0])) not in _SPACINGS:
        action = f"set it in scheduler_config.json to {', '.join(_SPACINGS[:-1])} or {_SPACINGS[-1]}"
        raise BaseError(path, f"`timestep_spacing: {spacing!r}` is not supported", action)
    return cast("Prediction", prediction)


def read_alphas(path: Path, scheduler: Mapping[str, Any]) -> Tensor:
    """ᾱ, float32 on the CPU, for each of usually 1000 steps: from almost 1 down to 0 or more. Raises BaseError."""
    check_config(f"{path}: its scheduler_config.json", scheduler, *_SCHEDULERS)
    try:
        alphas: Tensor = DDPMScheduler(**{name: scheduler[name] for name in _BETAS if name in scheduler}).alphas_cumprod
    except (ValueError, TypeError, NotImplementedError, RuntimeError, AttributeError, KeyError) as error:
        reason = (str(error).splitlines() or [""])[0][:120]
        fault = f"its scheduler_config.json has no noise schedule ({type(error).__name__}: {reason})"
        raise BaseError(path, fault, _ACTION) from error
    # NaN fails the comparison `<`, too.
    if (
        alphas.ndim != 1
        or len(alphas) < FEWEST
        or not (alphas[1:] < alphas[:-1]).all()
        or alphas[0] > 1
        or alphas[-1] < 0
    ):
        fault = f"its scheduler_config.json must give noise that grows, over {FEWEST} steps or more"
        raise BaseError(path, fault, _ACTION)
    return alphas


def read_scaling(path: Path, vae: Mapping[str, Any]) -> float:
    """The factor between the VAE's latents and the UNet's; raises BaseError, also for a VAE of another kind."""
    if (kind := vae.get("_class_name", _VAE)) != _VAE:
        raise BaseError(path, f"its VAE is of the class {str(kind)[:60]}, which is not supported", f"use an {_VAE}")
    levels, channels = vae.get("block_out_channels"), vae.get("latent_channels", 4)
    if channels != 4 or not isinstance(levels, list) or len(levels) != 4:
        fault = (
            f"its VAE has {channels} latent channels and `block_out_channels: {levels}`; "
            "only 4 channels and 4 levels are supported"
        )
        raise BaseError(path, fault, "choose a base or a VAE of this kind")
    factor = vae.get("scaling_factor", 0.18215)
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor <= sys.float_info.max:
        raise BaseError(path, f"its VAE has the scaling_factor {factor!r:.40}, which must be a number above 0", _ACTION)
    shifts = [name for name in _SHIFTS if vae.get(name)]
    if shifts:
        fault = f"its VAE shifts latents ({', '.join(shifts)}), which is not supported"
        raise BaseError(path, fault, "choose another base, or another VAE for it")
    return float(factor)


def read_side(path: Path, unet: Mapping[str, Any]) -> int:
    """The side of the latents that the UNet was trained at; 64 if the configuration has none. Raises BaseError."""
    size = unet.get("sample_size")
    size = 64 if size is None else size
    sides = size if isinstance(size, list) else [size]
    if not sides or any(type(side) is not int or not 0 < side <= LONGEST for side in sides):
        fault = f"its UNet has the sample_size {repr(size)[:60]}, which must be a whole number from 1 to {LONGEST}"
        raise BaseError(path, fault, _ACTION)
    return int(min(sides))
