"""Views: one picture drawn smaller or larger, and which of its latent cells count (Custom Diffusion's augmentation).

Kumari et al., 2022, arXiv:2212.04488. The stage *views* makes and encodes them (`etude/images/views.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from etude.files import read_metadata, read_tensors
from etude.training.augmentation import KIND, MASK, Kind
from etude.training.batches import Images, load_images


@dataclass(frozen=True)
class Views:
    """Views of several image sets; names are ``<set>/<picture>-<number>``."""

    images: Images
    masks: dict[str, Tensor]  # [1, h, w], ones where the picture is
    kinds: dict[str, Kind]


def load_views(folder: Path | str, sets: Sequence[str]) -> Views:
    """Read ``artifacts/<method>/views/<set>`` of each set."""
    names: list[str] = []
    moments: list[tuple[Tensor, Tensor]] = []
    masks: dict[str, Tensor] = {}
    kinds: dict[str, Kind] = {}
    for place in (Path(folder, name) for name in sets):
        images = load_images(place)
        for name, mean, logvar in zip(images.names, images.mean, images.logvar, strict=True):
            full, file = f"{place.name}/{name}", place / f"{name}.safetensors"
            names.append(full)
            moments.append((mean, logvar))
            masks[full] = read_tensors(file)[0][MASK].float()
            kinds[full] = read_metadata(file)[KIND]  # type: ignore[assignment]
    means, logvars = zip(*moments, strict=True)
    return Views(Images(tuple(names), means, logvars), masks, kinds)
