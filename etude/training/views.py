"""Views: smaller or larger versions of a picture, with a mask of the latent cells that count in the loss.

They are Custom Diffusion's augmentation (Kumari et al., 2022, arXiv:2212.04488). The stage *views* makes and encodes
them (`etude/images/views.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import Tensor

from etude.core.tensors import read_tensors
from etude.training.augmentation import KIND, MASK, Kind
from etude.training.batches import Images, latent_files


@dataclass(frozen=True)
class Views:
    """Views of several image sets; names are ``<set>/<picture>-<number>``."""

    images: Images
    masks: dict[str, Tensor]  # [1, h, w], ones where the picture is
    kinds: dict[str, Kind]


def load_views(folder: Path | str, sets: Sequence[str]) -> Views:
    """Read ``artifacts/<method>/views/<set>`` of each set; raises InputError if one is empty."""
    moments: list[tuple[Tensor, Tensor]] = []
    masks: dict[str, Tensor] = {}
    kinds: dict[str, Kind] = {}
    for place in (Path(folder, name) for name in sets):
        for file in latent_files(place):
            tensors, metadata = read_tensors(file)
            name = f"{place.name}/{file.stem}"
            moments.append((tensors["mean"], tensors["logvar"]))
            masks[name], kinds[name] = tensors[MASK].float(), cast("Kind", metadata[KIND])
    means, logvars = zip(*moments, strict=True)
    return Views(Images(tuple(masks), means, logvars), masks, kinds)
