"""The configuration of a single-file checkpoint, which the file itself does not contain.

It is the folder ``NAME.config/`` beside ``NAME.safetensors`` (a diffusers folder without weights), if there is one;
else the configuration of SD 1.5, 2.1 or XL in ``configs/``, if the file has the same widths. The network is not used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from etude.base.checkpoint import Shapes, read_labels, read_shapes
from etude.core.errors import BaseError
from etude.core.families import FAMILIES, PREDICTIONS, UNET
from etude.core.model_folders import read_config

CONFIGS = Path(__file__).parent / "configs"


def config_folder(path: Path, family: str) -> Path:
    """The folder with ``unet/config.json`` and the other configurations of a single file; raises BaseError if none."""
    beside = path.with_suffix(".config")
    if beside.is_dir():
        return beside
    action = f"put its configuration (a diffusers folder without weights) in {beside}"
    return _shipped(path, family, _widths(read_shapes(path)), action)


def vae_config(model: Path, family: str) -> Path:
    """The folder with the ``config.json`` of a model's VAE, or of the one that it should get; raises BaseError."""
    if model.is_file():
        return config_folder(model, family) / "vae"
    if (model / "vae" / "config.json").exists():
        return model / "vae"
    unet = read_config(model / "unet" / "config.json")
    widths = (unet.get("block_out_channels") or [None])[0], unet.get("cross_attention_dim")
    action = "name a VAE that has its configuration beside it: a folder of diffusers with config.json"
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

    Marks in the file have precedence over the shipped configuration: the tensors ``v_pred`` and ``ztsnr`` of SDXL
    models, and ``modelspec.prediction_type``. If a family has models with ε- and with v-prediction and the same
    tensors, as SD 2.x, a mark is required.
    """
    scheduler = read_config(configs / "scheduler" / "scheduler_config.json")
    if configs.parent != CONFIGS:
        return scheduler
    marks = read_shapes(path)
    label = read_labels(path).get("modelspec.prediction_type", "")
    prediction = PREDICTIONS.get(label)
    if "v_pred" in marks:
        prediction = "v_prediction"
    if prediction is None and FAMILIES[family].must_say:
        action = f"put its configuration in {path.with_suffix('.config')} (stabilityai/stable-diffusion-2-1 predicts v)"
        fault = (
            f"does not say whether it predicts the noise (ε) or v: {FAMILIES[family].title} has models of both kinds"
        )
        raise BaseError(path, fault, action)
    zero_snr = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if "ztsnr" in marks else {}
    return scheduler | ({"prediction_type": prediction} if prediction else {}) | zero_snr
