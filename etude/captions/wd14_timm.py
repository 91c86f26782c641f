"""The networks of WD14 models in timm's form: ``model.safetensors`` beside timm's ``config.json``. They run on a GPU.

timm installs torchvision, which must fit the build of torch; so neither is part of an extra.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from etude.captions.scores import Array
from etude.core.errors import BaseError


class TimmNetwork:
    """The network in a folder, with the side of its pictures; it takes any number of them."""

    batch = 0  # not fixed

    def __init__(self, folder: Path, device: str, remedy: str) -> None:
        """Load the folder; raises BaseError, with ``remedy`` as the next action."""
        import timm

        from etude.base.damage import DAMAGED, reason

        try:
            model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True)
        except DAMAGED as error:
            raise BaseError(folder, f"cannot be opened by timm ({reason(error)})", remedy) from error
        settings = model.pretrained_cfg
        if settings["crop_pct"] != 1 or settings["input_size"][1] != settings["input_size"][2]:
            fault = "crops pictures, or needs pictures that are not square; WD14 models take whole, square ones"
            raise BaseError(folder, fault, "set `caption.captioners.wd14` to the folder of a WD14 model")
        self._model, self._device = model.requires_grad_(False).eval().to(device), device
        self._mean = np.array(settings["mean"][::-1], np.float32)  # of blue, green, red
        self._std = np.array(settings["std"][::-1], np.float32)
        self.side: int = settings["input_size"][1]

    def scores(self, batch: Array) -> Array:
        """The scores [n, tags] of the pictures [n, side, side, 3]: BGR, 0 to 255."""
        import torch

        normal = (batch / np.float32(255) - self._mean) / self._std
        with torch.no_grad():
            logits = self._model(torch.from_numpy(normal).permute(0, 3, 1, 2).to(self._device))
        return np.asarray(logits.sigmoid().cpu().numpy())
