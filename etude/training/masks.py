"""Masks of pictures in the loss: the black part of a mask counts less.

The squared error of each cell is multiplied by max(mask, w), with w the ``unmasked_weight``; a picture without a mask
counts fully. The loss is the mean over all cells, also those that count less. So a picture has less effect if only a
small part of it counts. Both rules are OneTrainer's without its normalisation; w = 0 is kohya's ``--masked_loss``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from etude.core.errors import InputError
from etude.core.params import Schema

if TYPE_CHECKING:
    from torch import Tensor


class MaskedLoss(Schema):
    """A method whose loss can be weighted by the masks of pictures."""

    added_keys: ClassVar = {"unmasked_weight": 1.0}

    unmasked_weight: float = Field(
        ge=0, le=1, description="weight in the loss of what a picture's mask leaves black; 1: masks are not used"
    )

    def cell_weights(self, masks: Tensor | None) -> Tensor | None:
        """The weights [B, 1, h, w] of the cells in the loss, from a batch's masks; None: all count the same."""
        if masks is None or self.unmasked_weight == 1:
            return None
        return masks.clamp(min=self.unmasked_weight)


def refuse_no_masks(params: Schema, masks: Iterable[Any], place: str) -> None:
    """Raise InputError if masks should count, and no picture has one; ``place`` names the pictures' place."""
    if not isinstance(params, MaskedLoss) or params.unmasked_weight == 1 or any(mask is not None for mask in masks):
        return
    fault = f"no picture has a mask, and `unmasked_weight` is {params.unmasked_weight:g}"
    action = (
        "put masks beside the pictures (otter-masklabel.png beside otter.png), let "
        "`prepare.alpha_mask: true` make them from transparency, or write `unmasked_weight: 1.0`"
    )
    raise InputError(place, fault, action)
