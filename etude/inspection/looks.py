"""What pages show of each picture's pixels: a tile, masks, how blurred it is. Cached, as decoding takes longest."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from etude.core.code import code_digests, versions
from etude.core.files import sha256_file
from etude.core.pictures import open_prepared
from etude.core.store import Store, key, load, save
from etude.images.preparation import MASKS
from etude.inspection.contents import Picture
from etude.inspection.sharpness import blur_of, contrast_of
from etude.inspection.tiles import draw_tile

SIDE = 192  # px of a tile's longer side
QUALITY = 72  # of WebP
CODE = ("etude/inspection/looks.py", "etude/inspection/sharpness.py", "etude/inspection/tiles.py", "etude/images")


@dataclass(frozen=True)
class Measures:
    """For a picture's training pictures: how blurred the most blurred one is, and the contrast of the plainest."""

    blur: float  # 0 sharp … 1
    contrast: float  # standard deviation of levels


class Looks:
    """The tiles and measures of a set, by pictures. Each is made on first use.

    It can be pickled and is small, so that processes may share the work.
    """

    def __init__(self, name: str, folder: Path, prepared: Path) -> None:
        """``folder`` is that of the set ``name``, ``prepared`` that of its training pictures."""
        self.name, self.folder, self.prepared = name, folder, prepared
        self._store = Store("looks")
        self._context = (code_digests(*CODE), versions("pillow", "numpy"), SIDE, QUALITY)

    def measures(self, picture: Picture) -> Measures:
        """The measures of its training pictures."""
        return Measures(**self._read(picture)["measures"])

    def tile(self, picture: Picture) -> str:
        """The picture with its crops, as a ``data:`` URL."""
        return f"data:image/webp;base64,{self._read(picture)['tile']}"

    def masks(self, picture: Picture) -> list[str]:
        """The masks of its training pictures, as ``data:`` URLs."""
        return [f"data:image/webp;base64,{mask}" for mask in self._read(picture)["masks"]]

    def _read(self, picture: Picture) -> dict[str, Any]:
        """The entry of the store, made if it is missing or damaged."""
        place = self._store.path(self._key(picture), ".entry")
        entry: dict[str, Any] | None = load(place)
        if entry is None:
            entry = self._make(picture)
            save(place, entry)
        return entry

    def _key(self, picture: Picture) -> str:
        """The key of everything that the entry depends on. The ids are digests of the file's pixels."""
        drawn = [[identifier, entry["crop"], entry.get("faces", [])] for identifier, entry in picture.entries.items()]
        files = [*self._training(picture), *self._masks(picture)]
        return key("look", list(picture.size), drawn, list(map(sha256_file, files)), *self._context)

    def _make(self, picture: Picture) -> dict[str, Any]:
        tile = draw_tile(self.folder / picture.name, list(picture.entries.values()), self.name, SIDE)
        images = [open_prepared(file).convert("RGB") for file in self._training(picture)]
        return {
            "tile": _webp(tile),
            "masks": [_webp(open_prepared(mask).convert("L")) for mask in self._masks(picture)],
            "measures": {"blur": max(map(blur_of, images)), "contrast": min(map(contrast_of, images))},
        }

    def _training(self, picture: Picture) -> list[Path]:
        return [self.prepared / f"{identifier}.png" for identifier in picture.entries]

    def _masks(self, picture: Picture) -> list[Path]:
        masks = [self.prepared / MASKS / f"{identifier}.png" for identifier in picture.entries]
        return [mask for mask in masks if mask.is_file()]


def _webp(image: Image.Image) -> str:
    """The picture, at most SIDE px at its longer side, as WebP in base64."""
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    data = BytesIO()
    image.save(data, "WEBP", quality=QUALITY)
    return base64.b64encode(data.getvalue()).decode()
