"""The configuration of a single-file checkpoint, which the file itself does not contain.

It is the folder ``NAME.config/`` beside ``NAME.safetensors`` (a diffusers folder without weights), if there is one;
otherwise the configuration of SD 1.5, 2.1 or XL in ``configs/``, if the file has the same widths. Nothing is fetched.
With ``configs/``, the prediction is also read from ``NAME.yaml``, the configuration of LDM's own code and A1111; its
numbers of the noise schedule and the latents must equal those of ``configs/``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.base.checkpoint import Shapes, read_labels, read_shapes
from etude.core.errors import BaseError, EtudeWarning, ParamsError
from etude.core.families import FAMILIES, PREDICTIONS, UNET
from etude.core.model_folders import read_config
from etude.core.pickles import read_either
from etude.core.yaml import read_yaml

if TYPE_CHECKING:
    from torch import Tensor

CONFIGS = Path(__file__).parent / "configs"
NEAR = 2e-3  # the rounding of float16 is below this
PARAMETERIZATIONS = {"eps": "epsilon", "v": "v_prediction"}  # values in NAME.yaml → ours
NUMBERS = {
    "linear_start": "beta_start",
    "linear_end": "beta_end",
    "timesteps": "num_train_timesteps",
}  # names in NAME.yaml → ours


def config_folder(path: Path, family: str) -> Path:
    """The folder with ``unet/config.json`` and the other configurations of a single file; raises BaseError if none."""
    beside = path.with_suffix(".config")
    if beside.is_dir():
        return beside
    action = f"put its configuration (a diffusers folder without weights) in {beside}"
    return _shipped(path, family, _widths(read_shapes(path)), action)


def vae_config(model: Path, family: str) -> Path:
    """The folder with the ``config.json`` of a model's VAE, or if it has none, of the VAE that it needs. BaseError."""
    if model.is_file():
        return config_folder(model, family) / "vae"
    if (model / "vae" / "config.json").exists():
        return model / "vae"
    unet = read_config(model / "unet" / "config.json")
    levels = unet.get("block_out_channels")
    widths = (levels[0] if isinstance(levels, list) and levels else None), unet.get("cross_attention_dim")
    action = "give a VAE that has its configuration beside it: a folder of diffusers with config.json"
    return _shipped(model, family, widths, action) / "vae"


def _shipped(path: Path, family: str, widths: tuple[Any, Any], action: str) -> Path:
    """Étude's own configuration of a family, if its UNet has the widths of this model; raises BaseError."""
    if (shipped := CONFIGS / family).is_dir():
        config = read_config(shipped / "unet" / "config.json")
        if widths == (config["block_out_channels"][0], config["cross_attention_dim"]):
            return shipped
    raise BaseError(path, f"does not have the widths of any {family} model that Étude knows", action)


def _widths(shapes: Shapes) -> tuple[int, int]:
    """Channels of the UNet's first level, and width of its text conditioning."""
    contexts = [s[1] for name, s in shapes.items() if name.startswith(UNET) and name.endswith("attn2.to_k.weight")]
    return shapes[UNET + "input_blocks.0.0.weight"][0], contexts[0] if contexts else 0


def single_scheduler(path: Path, family: str, configs: Path) -> dict[str, Any]:
    """The noise schedule and prediction of a single file.

    Marks in the file, and ``NAME.yaml``, have precedence over the shipped configuration: the tensors ``v_pred`` and
    ``ztsnr`` of SDXL models, and ``modelspec.prediction_type``. If a family has models with ε- and with v-prediction
    and the same tensors, as SD 2.x has, a mark is required.
    """
    scheduler = read_config(configs / "scheduler" / "scheduler_config.json")
    if configs.parent != CONFIGS:
        return scheduler
    marks = read_shapes(path)
    prediction = _prediction_within(path, marks)
    beside = _read_beside(path)
    if said := _prediction_beside(path, beside):
        if prediction not in (None, said):
            fault = f"says itself that it predicts {prediction}, but {path.with_suffix('.yaml').name} says {said}"
            raise BaseError(path, fault, f"correct or remove {path.with_suffix('.yaml')}")
        prediction = said
    _refuse_other_numbers(path, beside, scheduler, read_config(configs / "vae" / "config.json"))
    if prediction is None and FAMILIES[family].must_say:
        action = f"put its configuration in {path.with_suffix('.config')} (stabilityai/stable-diffusion-2-1 predicts v)"
        fault = (
            f"does not say whether it predicts the noise (ε) or v: {FAMILIES[family].title} has models of both kinds"
        )
        raise BaseError(path, fault, action)
    zero_snr = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if "ztsnr" in marks else {}
    return scheduler | ({"prediction_type": prediction} if prediction else {}) | zero_snr


def _prediction_within(path: Path, marks: Shapes) -> str | None:
    """What the UNet predicts, by marks in a single file; None without a mark. Raises BaseError."""
    label = read_labels(path).get("modelspec.prediction_type", "")
    prediction = PREDICTIONS.get(label)
    if label and not prediction:
        fault = f"says `modelspec.prediction_type: {label[:40]}`, which is not supported"
        raise BaseError(path, fault, "choose a base that predicts ε or v, or correct its header")
    if "v_pred" not in marks:
        return prediction
    if prediction == PREDICTIONS["epsilon"]:
        fault = f"has the mark `v_pred` in it, and `modelspec.prediction_type: {label}` in its header"
        raise BaseError(path, fault, "remove the wrong one of the two, or fetch it again")
    return PREDICTIONS["v"]


def _read_beside(path: Path) -> dict[str, Any]:
    """``model.params`` of ``NAME.yaml``; empty if there is none. Raises BaseError."""
    file = path.with_suffix(".yaml")
    if not file.exists():
        return {}
    try:
        model = read_yaml(file).get("model")
    except ParamsError as error:
        raise BaseError(file, error.fault, "correct or remove it") from error
    params = model.get("params") if isinstance(model, dict) else None
    return dict(params) if isinstance(params, dict) else {}


def _prediction_beside(path: Path, params: Mapping[str, Any]) -> str | None:
    """What the UNet predicts, by ``NAME.yaml``; LDM's default is ε. In SDXL's files, the name of a class says it."""
    if "denoiser_config" in params:
        return "v_prediction" if "VScaling" in str(params["denoiser_config"]) else "epsilon"
    if not params:
        return None
    said = str(params.get("parameterization", "eps"))
    if said not in PARAMETERIZATIONS:
        fault = f"has `parameterization: {said[:40]}`, which is not supported"
        raise BaseError(path.with_suffix(".yaml"), fault, "choose a base that predicts ε or v")
    return PARAMETERIZATIONS[said]


def _refuse_other_numbers(
    path: Path, params: Mapping[str, Any], scheduler: Mapping[str, Any], vae: Mapping[str, Any]
) -> None:
    """Raise BaseError for numbers in ``NAME.yaml`` that are not those of the configuration that is used."""
    used = {name: scheduler[ours] for name, ours in NUMBERS.items()} | {"scale_factor": vae["scaling_factor"]}
    for name, number in used.items():
        if (said := params.get(name, number)) != number:
            fault = f"has `{name}: {str(said)[:40]}`, but Étude's configuration of such models has {number}"
            action = f"put its configuration (a diffusers folder without weights) in {path.with_suffix('.config')}"
            raise BaseError(path.with_suffix(".yaml"), fault, action)


def warn_of_own_numbers(path: Path, alphas: Tensor, scaling_factor: float) -> None:
    """Warn of a file that contains another factor of latents, or another noise schedule, than our configuration.

    LDM's own code wrote both into some files. A1111 draws with that schedule; ComfyUI, kohya and diffusers do not.
    """
    ours: dict[str, Any] = {"scale_factor": scaling_factor, "alphas_cumprod": alphas}
    wanted = ours.keys() & read_shapes(path).keys()
    for name, tensor in read_either(path, wanted.__contains__)[0].items() if wanted else ():
        other = tensor.double() - ours[name] if tensor.numel() in (1, len(alphas)) else None
        if other is None or other.abs().max() > NEAR:
            text = f"{path}: its `{name}` is not used: the configuration that is used has other numbers"
            action = f"if the file is right, put a configuration with its numbers in {path.with_suffix('.config')}"
            warnings.warn(f"{text}. Next: {action}", EtudeWarning, stacklevel=2)
