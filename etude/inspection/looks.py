"""What is seen of each picture by its pixels: a tile, its masks, how blurred it is. Cached: decoding takes longest."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from etude.core.code import code_digests
from etude.core.errors import InputError
from etude.core.files import atomic_path, read_json, sha256_file
from etude.core.pictures import open_prepared
from etude.core.store import Store, key
from etude.inspection.contents import Contents, Picture
from etude.inspection.sharpness import blur_of, contrast_of
from etude.inspection.tiles import draw_tile

SIDE = 192  # px of a tile's longer side
QUALITY = 72  # of WebP
CODE = ("etude/inspection/looks.py", "etude/inspection/sharpness.py", "etude/inspection/tiles.py", "etude/images")


@dataclass(frozen=True)
class Measures:
    """Of a picture's training pictures: how blurred the most blurred is, and the contrast of the plainest."""

    blur: float  # 0 sharp … 1
    contrast: float  # standard deviation of levels


class Looks:
    """The tiles and measures of a set, by pictures. They are made when they are asked for first."""

    def __init__(self, contents: Contents) -> None:
        self.contents = contents
        self._store = Store("looks")
        self._context = (code_digests(*CODE), version("pillow"), version("numpy"), SIDE, QUALITY)
        self._places: dict[str, Path] = {}

    def measures(self, picture: Picture) -> Measures:
        """How its training pictures look."""
        return Measures(**self._read(picture)["measures"])

    def tile(self, picture: Picture) -> str:
        """The picture with its crops, as a ``data:`` URL."""
        return f"data:image/webp;base64,{self._read(picture)['tile']}"

    def masks(self, picture: Picture) -> list[str]:
        """The masks of its training pictures, as ``data:`` URLs."""
        return [f"data:image/webp;base64,{mask}" for mask in self._read(picture)["masks"]]

    def _read(self, picture: Picture) -> dict[str, Any]:
        """The entry of the store, made if it is missing or damaged."""
        if picture.name not in self._places:
            self._places[picture.name] = self._store.path(self._key(picture), ".json")
        place = self._places[picture.name]
        with suppress(InputError):
            entry: dict[str, Any] = read_json(place)
            return entry
        entry = self._make(picture)
        with atomic_path(place, durable=False) as file:
            file.write_text(json.dumps(entry), encoding="utf-8")
        return entry

    def _key(self, picture: Picture) -> str:
        """Of all that the entry depends on. The ids are digests of the file's pixels."""
        drawn = [[identifier, entry["crop"], entry.get("faces", [])] for identifier, entry in picture.entries.items()]
        files = [self.contents.training(identifier) for identifier in picture.entries]
        files += self._masks(picture)
        return key("look", list(picture.size), drawn, list(map(sha256_file, files)), *self._context)

    def _make(self, picture: Picture) -> dict[str, Any]:
        tile = draw_tile(self.contents.path(picture), list(picture.entries.values()), self.contents.name, SIDE)
        images = [open_prepared(self.contents.training(identifier)).convert("RGB") for identifier in picture.entries]
        return {
            "tile": _webp(tile),
            "masks": [_webp(open_prepared(mask).convert("L")) for mask in self._masks(picture)],
            "measures": {"blur": max(map(blur_of, images)), "contrast": min(map(contrast_of, images))},
        }

    def _masks(self, picture: Picture) -> list[Path]:
        return [mask for identifier in picture.entries if (mask := self.contents.mask(identifier)).is_file()]


def _webp(image: Image.Image) -> str:
    """The picture, at most SIDE px at its longer side, as WebP in base64."""
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    data = BytesIO()
    image.save(data, "WEBP", quality=QUALITY)
    return base64.b64encode(data.getvalue()).decode()
