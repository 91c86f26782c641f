"""The learning rates of UNet and text encoders."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from etude.training.updates import Group


def groups(parameters: Mapping[str, Tensor], text_rate: float) -> list[Group]:
    """Two groups: the UNet (``unet.…``) with the plan's learning rate, text encoders with ``text_rate`` times that."""
    unet = {name: tensor for name, tensor in parameters.items() if name.startswith("unet.")}
    text = {name: tensor for name, tensor in parameters.items() if name not in unet}
    return [Group(unet), Group(text, text_rate)] if text else [Group(unet)]
