"""Loading a base, frozen and offline: a diffusers folder, or a single ``.safetensors``/``.ckpt`` file.

The configuration of a single file is found by `single`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
from safetensors import SafetensorError
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection
from transformers.utils import logging as transformers_logging

from etude.base.base import Base, Prediction
from etude.base.checkpoint import read_parts
from etude.base.digest import PARTS
from etude.base.family import is_variation, read_config, recognise, weight_files
from etude.base.single import CONFIGS, config_folder, single_scheduler
from etude.base.tokenizer import load_tokenizer
from etude.base.unclip import Unclip, load_unclip
from etude.core.errors import BaseError
from etude.core.families import FAMILIES, PLAIN, PROJECTED, Family, TextEncoder
from etude.core.params import Part

_MODELS = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
_TEXT_MODELS = {PLAIN: CLIPTextModel, PROJECTED: CLIPTextModelWithProjection}
# Prefixes by which diffusers' conversion recognises an encoder: (whether its layers have OpenCLIP's names, its class).
_PREFIXES = {
    (False, PLAIN): "cond_stage_model.transformer.",
    (True, PLAIN): "cond_stage_model.model.",
    (True, PROJECTED): "conditioner.embedders.1.model.",
}
_SCHEDULER = Path("scheduler") / "scheduler_config.json"
_BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")


def load_base(
    path: Path | str,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    parts: Sequence[Part] = PARTS,
) -> Base:
    """Load ``parts`` of a base; for device ``auto`` see `choose_device`. Raises BaseError."""
    path = Path(path)
    family = FAMILIES[recognise(path)]
    single = path.is_file()
    configs = config_folder(path, family.name) if single else path
    scheduler = single_scheduler(path, family.name, configs) if single else read_config(path / _SCHEDULER)
    vae_config = read_config(configs / "vae" / "config.json")
    vae_dtype = torch.float32 if dtype == torch.float16 and vae_config.get("force_upcast", True) else dtype
    source = _Source(path, family, configs, read_parts(path, parts) if single else None, choose_device(device))
    encoders = family.text_encoders if "text" in parts and not is_variation(path) else ()
    with _quiet():
        return Base(
            path=path,
            family=family.name,
            prediction=_prediction(path, scheduler),
            unet=_load(source, "unet", dtype) if "unet" in parts else None,
            vae=_load(source, "vae", vae_dtype) if "vae" in parts else None,
            text_encoders=tuple(_load(source, encoder.part, dtype, encoder) for encoder in encoders),
            tokenizers=tuple(load_tokenizer(configs / encoder.tokenizer, encoder.pad) for encoder in encoders),
            alphas_cumprod=DDPMScheduler(**_only(scheduler, _BETAS)).alphas_cumprod.to(source.device),
            resolution=_resolution(configs, family, scheduler),
            scaling_factor=float(vae_config.get("scaling_factor", 0.18215)),
            device=source.device,
            dtype=dtype,
            scheduler_config=scheduler,
            unclip=_unclip(source) if "unet" in parts else None,
        )


def _unclip(source: _Source) -> Unclip | None:
    if source.tensors is not None:
        return None
    return load_unclip(source.path, read_config(source.path / "unet" / "config.json"), source.device)


def choose_device(name: str | torch.device) -> torch.device:
    """``auto`` → the first of cuda, mps and cpu that is available; any other name is used unchanged."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _only(config: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: config[name] for name in names if name in config}


def _prediction(path: Path, scheduler: dict[str, Any]) -> Prediction:
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction") or "EDM" in scheduler.get("_class_name", ""):
        action = "choose a base that predicts ε or v on the usual noise schedule"
        raise BaseError(path, f"its scheduler is a {scheduler.get('_class_name')} predicting {prediction}", action)
    return cast(Prediction, prediction)


def _resolution(configs: Path, family: Family, scheduler: dict[str, Any]) -> int:
    """Training resolution in px. The shipped configuration has none, because SD 2.x has 512 with ε and 768 with v."""
    if configs.parent == CONFIGS:
        return family.resolution[scheduler["prediction_type"]]
    size = read_config(configs / "unet" / "config.json").get("sample_size") or 64
    return 8 * (size if isinstance(size, int) else min(size))


@dataclass(frozen=True)
class _Source:
    """The files from which models are loaded, and the device."""

    path: Path
    family: Family
    configs: Path  # the base's own folder; for a single file, the folder of its configuration
    tensors: dict[str, dict[str, Tensor]] | None  # of a single file: part → name → tensor
    device: torch.device


def _load(source: _Source, part: str, dtype: torch.dtype, encoder: TextEncoder | None = None) -> Any:
    """One model, frozen and in eval mode; raises BaseError if the base's files do not contain all its parameters."""
    kind = _TEXT_MODELS[encoder.model] if encoder else _MODELS[part]
    try:
        if source.tensors is None:
            model, missing = _from_folder(source, part, kind, dtype)
        else:
            model, missing = _from_file(source, part, kind, dtype, encoder)
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        fault = f"its {part} does not fit its configuration or is damaged ({reason[0]})"
        raise BaseError(source.path, fault, "fetch the base again, or correct the configuration beside it") from error
    if missing:
        fault = f"its {part} lacks {len(missing)} tensors, such as {missing[0]}"
        raise BaseError(source.path, fault, "fetch the base again, or correct the configuration beside it")
    return model.requires_grad_(False).eval().to(source.device)


def _from_folder(source: _Source, part: str, kind: Any, dtype: torch.dtype) -> tuple[Any, list[str]]:
    """The model in a diffusers folder, and the names of missing tensors."""
    folder = source.path / part
    variant = weight_files(folder)[1]
    model, info = kind.from_pretrained(
        str(folder), dtype=dtype, variant=variant, local_files_only=True, output_loading_info=True
    )
    return model, sorted(info["missing_keys"])


def _from_file(
    source: _Source, part: str, kind: Any, dtype: torch.dtype, encoder: TextEncoder | None
) -> tuple[Any, list[str]]:
    """A part of an LDM file, converted by diffusers, and the names of missing tensors (they are on the meta device)."""
    tensors = (source.tensors or {})["text" if encoder else part]
    where = {"config": str(source.configs), "subfolder": part, "local_files_only": True}
    if encoder:
        renamed = _renamed_for_diffusers(tensors, source.family.texts + encoder.single, encoder)
        model = create_diffusers_clip_model_from_ldm(kind, renamed, torch_dtype=dtype, **where)
    else:
        model = kind.from_single_file(tensors, dtype=dtype, **where)
    return model, sorted(name for name, tensor in model.named_parameters() if tensor.is_meta)


def _renamed_for_diffusers(tensors: dict[str, Tensor], prefix: str, encoder: TextEncoder) -> dict[str, Tensor]:
    """An encoder's tensors, with the prefix by which diffusers recognises them.

    In some merged SD 1.x files, CLIP's names lack ``text_model.``; it is added.
    """
    prefix_of_diffusers = _PREFIXES[encoder.open_clip, encoder.model]
    renamed = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            rest = name.removeprefix(prefix)
            short = not encoder.open_clip and rest.startswith(("embeddings.", "encoder.", "final_layer_norm."))
            renamed[f"{prefix_of_diffusers}{'text_model.' if short else ''}{rest}"] = tensor
    return renamed


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, transformers shows no progress bars."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
