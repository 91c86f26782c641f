"""Loading a base, frozen and offline: a diffusers folder, or a single ``.safetensors``/``.ckpt`` file.

The configuration of a single file is found by `single`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from etude.base.base import Base
from etude.base.digest import PARTS
from etude.base.family import is_variation, recognise
from etude.base.fitting import refuse_misfits, refuse_other_words
from etude.base.schedule import SCHEDULE, Prediction, read_alphas, read_prediction, read_scaling, read_side
from etude.base.settings import PLAIN, Text
from etude.base.single import CONFIGS, config_folder, single_scheduler, warn_of_own_numbers
from etude.base.tokenizer import load_tokenizer
from etude.base.unclip import Unclip, load_unclip
from etude.base.waiting import HOST
from etude.base.whole import empty_model, expected_shapes, filled, read_model
from etude.core.families import FAMILIES, Family
from etude.core.model_folders import read_config
from etude.core.params import Part

SCHEDULER = Path("scheduler") / "scheduler_config.json"


def load_base(
    path: Path | str,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    parts: Sequence[Part] = PARTS,
    trained: Callable[[str], bool] = lambda _: False,
    waiting: Collection[Part] = (),
    reading: Text = PLAIN,
) -> Base:
    """Load ``parts`` of a base; for device ``auto`` see `choose_device`. Raises BaseError.

    Each weight is loaded in its final precision: ``dtype``, or float32 if ``trained`` is true for its name in
    artifacts. The parts ``waiting`` are loaded on the host: see `waiting.present`. ``reading``: how texts are read.
    """
    path = Path(path)
    family = FAMILIES[recognise(path, without_vae="vae" not in parts)]
    single = path.is_file()
    configs = config_folder(path, family.name) if single else path
    scheduler = single_scheduler(path, family.name, configs) if single else read_config(path / SCHEDULER)
    vae_config = read_config(configs / "vae" / "config.json")
    scaling_factor = read_scaling(path, vae_config)
    encoders = family.text_encoders if "text" in parts and not is_variation(path) else ()
    place = choose_device(device)
    texts = [encoder.part for encoder in encoders]
    wanted = [part for part in family.parts if part in (*parts, *texts)]
    models = {part: empty_model(path, configs / part, family, part) for part in wanted}
    tensors, _ = read_model(path, wanted, expected=expected_shapes(models))
    refuse_misfits(configs, family)

    def precision(name: str) -> torch.dtype:
        return torch.float32 if trained(name) else part_dtype(name.partition(".")[0], dtype, vae_config)

    def load(part: str) -> Any:
        kind = part if part in PARTS else "text"
        model = filled(path, models[part], part, tensors, precision).requires_grad_(False).eval()
        return model.to(HOST if kind in waiting else place)

    tokenizers = tuple(load_tokenizer(configs / encoder.tokenizer, encoder.pad) for encoder in encoders)
    for encoder, tokenizer in zip(encoders, tokenizers, strict=True):
        refuse_other_words(path, encoder, tokenizer, models[encoder.part].config)
    alphas = read_alphas(path, scheduler)
    if single and configs.parent == CONFIGS and not scheduler.get("rescale_betas_zero_snr"):
        warn_of_own_numbers(path, alphas, scaling_factor)
    return Base(
        path=path,
        family=family.name,
        prediction=read_prediction(path, scheduler),
        unet=load("unet") if "unet" in parts else None,
        vae=load("vae") if "vae" in parts else None,
        text_encoders=tuple(load(encoder.part) for encoder in encoders),
        tokenizers=tokenizers,
        alphas_cumprod=alphas.to(place),
        resolution=resolution_of(path, configs, family, scheduler),
        scaling_factor=scaling_factor,
        device=place,
        dtype=dtype,
        schedule={name: scheduler[name] for name in SCHEDULE if name in scheduler},
        unclip=_unclip(path, place) if "unet" in parts else None,
        waiting={part for part in waiting if part in parts},
        reading=reading,
    )


class Kind(NamedTuple):
    """What a whole model is, by its configuration."""

    family: str
    prediction: Prediction
    resolution: int


def read_kind(path: Path) -> Kind:
    """What a whole model is; its VAE may be missing. Raises BaseError."""
    family = FAMILIES[recognise(path, without_vae=True)]
    configs = config_folder(path, family.name) if path.is_file() else path
    scheduler = single_scheduler(path, family.name, configs) if path.is_file() else read_config(path / SCHEDULER)
    prediction = read_prediction(path, scheduler)
    return Kind(family.name, prediction, resolution_of(path, configs, family, scheduler))


def _unclip(path: Path, device: torch.device) -> Unclip | None:
    return load_unclip(path, read_config(path / "unet" / "config.json"), device) if path.is_dir() else None


def part_dtype(part: str, dtype: torch.dtype, vae_config: Mapping[str, Any]) -> torch.dtype:
    """The precision of a part of a base in ``dtype``: many VAEs overflow in float16, and stay in float32."""
    overflows = part == "vae" and dtype == torch.float16 and vae_config.get("force_upcast", True)
    return torch.float32 if overflows else dtype


def choose_device(name: str | torch.device) -> torch.device:
    """``auto`` → the first of cuda, mps and cpu that is available; any other name is used unchanged."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def resolution_of(path: Path, configs: Path, family: Family, scheduler: dict[str, Any]) -> int:
    """Training resolution in px. With a shipped configuration, the family gives it: SD 2.x has 512 (ε) or 768 (v)."""
    if configs.parent == CONFIGS:
        return family.resolution[scheduler["prediction_type"]]
    return 8 * read_side(path, read_config(configs / "unet" / "config.json"))
