"""How a base is opened for training: its parts, and the precision of each weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from etude.base.digest import PARTS
from etude.core.params import MethodParams, Part
from etude.training.plan import Trained
from etude.training.preview import preview_of


@dataclass(frozen=True)
class Opening:
    """What is loaded of a base: ``parts``, in ``precision``, and the weights that are ``trained`` in float32."""

    parts: tuple[Part, ...]
    precision: str
    trained: Callable[[str], bool]


def opening(params: MethodParams) -> Opening:
    """How the base of a method is opened; for previews it needs all its parts."""
    precision = params.base_precision if isinstance(params, Trained) else "fp32"
    return Opening(PARTS if preview_of(params) else params.base_parts, precision, params.trains)
