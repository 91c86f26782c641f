"""How a base is opened for training: its parts, the precision of each weight, and whether activations are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from etude.base.base import DTYPES, Base
from etude.base.digest import PARTS
from etude.base.loading import load_base
from etude.base.settings import PLAIN, Text
from etude.core.params import MethodParams, Part
from etude.training.plan import SavesMemory, TrainedWhole
from etude.training.preview import preview_of


@dataclass(frozen=True)
class Opening:
    """What is loaded of a base: ``parts``, in ``precision``; weights for which ``wide`` holds are in float32.

    The parts in ``waiting`` stay on the host while nothing uses them; text encoders only until all texts are encoded.

    ``recompute``: the UNet keeps only the inputs of its blocks, and computes their activations again for the gradients
    (Chen et al., 2016, arXiv:1604.06174).
    """

    parts: tuple[Part, ...]
    waiting: tuple[Part, ...]
    precision: str
    wide: Callable[[str], bool]
    recompute: bool

    def prepare(self, base: Base) -> Base:
        """The base, with recomputing switched on."""
        if self.recompute:
            base.unet.enable_gradient_checkpointing()
        return base


def opening(params: MethodParams) -> Opening:
    """How the base of a method is opened; previews need all its parts."""
    parts = PARTS if preview_of(params) else params.base_parts
    waiting = tuple(part for part in parts if part not in params.step_parts)
    if not isinstance(params, SavesMemory):
        return Opening(parts, waiting, "fp32", params.trains, recompute=False)
    short = isinstance(params, TrainedWhole) and params.trained_precision != "fp32"
    return Opening(parts, waiting, params.base_precision, _none if short else params.trains, params.recompute)


def _none(_weight: str) -> bool:
    return False


def open_base(path: Path, params: MethodParams, device: str = "cpu", reading: Text = PLAIN) -> Base:
    """The base in ``path``, opened for the build of a method; it reads texts by ``reading``."""
    how = opening(params)
    base = load_base(
        path,
        device=device,
        dtype=DTYPES[how.precision],
        parts=how.parts,
        trained=how.wide,
        waiting=how.waiting,
        reading=reading,
    )
    return how.prepare(base)
