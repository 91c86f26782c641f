"""What a single-file checkpoint does not say: its configuration.

In order: a folder ``NAME.config/`` beside ``NAME.safetensors`` (a diffusers folder without weights); else the
configuration of SD 1.5, 2.1 or XL in ``configs/`` here, when the file's widths are theirs. Nothing is looked up on the
network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from etude.base.checkpoint import Shapes, read_labels, read_shapes
from etude.base.family import Family, read_config
from etude.core.errors import BaseError

CONFIGS = Path(__file__).parent / "configs"
_UNET = "model.diffusion_model."
_CONTEXT = {"sd1": "input_blocks.1.1.", "sd2": "input_blocks.1.1.", "sdxl": "input_blocks.4.1."}


def config_folder(path: Path, family: Family) -> Path:
    """The folder that holds ``unet/config.json`` and its like for a single file; raises BaseError when none fits."""
    beside = path.with_suffix(".config")
    if beside.is_dir():
        return beside
    config = read_config(CONFIGS / family / "unet" / "config.json")
    if _widths(read_shapes(path), family) != (config["block_out_channels"][0], config["cross_attention_dim"]):
        action = f"put its configuration (a diffusers folder without weights) in {beside}"
        raise BaseError(path, f"has not the widths of any {family} that Étude knows", action)
    return CONFIGS / family


def _widths(shapes: Shapes, family: Family) -> tuple[int, int]:
    """Channels of the UNet's first level, and width of the text it is given."""
    context = shapes.get(f"{_UNET}{_CONTEXT[family]}transformer_blocks.0.attn2.to_k.weight", (0, 0))
    return shapes[_UNET + "input_blocks.0.0.weight"][0], context[1]


def single_scheduler(path: Path, family: Family, configs: Path) -> dict[str, Any]:
    """The noise schedule and prediction of a single file.

    Marks in the file count before the shipped configuration: the ``v_pred`` and ``ztsnr`` tensors of SDXL models, and
    ``modelspec.prediction_type``. SD 2.x exists in both kinds with the same tensors, so there a mark is needed.
    """
    scheduler = read_config(configs / "scheduler" / "scheduler_config.json")
    if configs.parent != CONFIGS:
        return scheduler
    marks = read_shapes(path)
    label = read_labels(path).get("modelspec.prediction_type", "")
    prediction = {"epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}.get(label)
    if "v_pred" in marks:
        prediction = "v_prediction"
    if prediction is None and family == "sd2":
        action = f"put its configuration in {path.with_suffix('.config')} (stabilityai/stable-diffusion-2-1 predicts v)"
        raise BaseError(path, "does not say whether it predicts the noise (ε) or v, as SD 2.x can do both", action)
    zero_snr = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if "ztsnr" in marks else {}
    return scheduler | ({"prediction_type": prediction} if prediction else {}) | zero_snr
