"""Views: smaller or larger versions of a picture, with a mask of the latent cells that count in the loss.

They are Custom Diffusion's augmentation (Kumari et al., 2022, arXiv:2212.04488). The stage *views* makes and encodes
them (`etude/images/views.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from etude.core.errors import InputError
from etude.core.files import read_json
from etude.core.shards import Shards
from etude.training.augmentation import KINDS, MASK, Kind
from etude.training.batches import Images, read_repeats
from etude.training.sets import Place


@dataclass(frozen=True)
class Views:
    """Views of several image sets; names are ``<set>/<picture>-<number>``. Their masks are the images' ``cells``."""

    images: Images
    kinds: dict[str, Kind]


def load_views(folder: Path | str, sets: Sequence[str]) -> Views:
    """Open ``artifacts/<method>/views/<set>`` of each set; raises InputError if one is empty."""
    kinds: dict[str, Kind] = {}
    places = [Place(f"{name}/", Path(folder, name)) for name in sets]
    shards = Shards(*(place[:2] for place in places))
    for prefix, place, _ in places:
        own = read_json(place / KINDS)
        if not own:
            raise InputError(place, "holds no views", "run `dvc repro` so that *views* fills it")
        kinds |= {prefix + name: kind for name, kind in own.items()}
    moments = shards.column("mean"), shards.column("logvar")
    repeats = read_repeats(shards.names, *places)
    return Views(Images(shards.names, *moments, shards.optional("attention"), shards.column(MASK), repeats), kinds)
