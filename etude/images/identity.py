"""Which pictures are the same: by their pixels exactly, and nearly."""

from __future__ import annotations

import hashlib
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GRID = 16  # the signature compares neighbours on a grid of 16 × 16 cells, across and down: 512 bits
FLAT = 3  # grey levels (of 255) by which neighbours must differ, so that plain areas don't flicker
TINT = 24  # colour levels (of 255) by which the cells of 4 × 4 of near duplicates may differ


def pixel_hash(image: Image.Image) -> str:
    """Hex SHA-256 of mode, size and pixels: equal for equal pictures, whatever the files around them."""
    digest = hashlib.sha256(f"{image.mode} {image.width}x{image.height}\0".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


class Signature(NamedTuple):
    """What survives re-compression and resizing: 512 bits of relative brightness, and 48 colour levels."""

    bits: int
    tint: NDArray[np.int16]


def signature(image: Image.Image) -> Signature:
    """The perceptual signature (a difference hash) of an RGB image."""
    grey = image.convert("L")
    across = np.asarray(grey.resize((GRID + 1, GRID), Image.Resampling.BOX), dtype=np.int16)
    down = np.asarray(grey.resize((GRID, GRID + 1), Image.Resampling.BOX), dtype=np.int16)
    bits = np.concatenate([(np.diff(across, axis=1) >= FLAT).ravel(), (np.diff(down, axis=0) >= FLAT).ravel()])
    tint = np.asarray(image.resize((4, 4), Image.Resampling.BOX), dtype=np.int16)
    return Signature(int.from_bytes(np.packbits(bits).tobytes(), "big"), tint)


def near_duplicates(signatures: dict[str, Signature], share: float) -> list[tuple[str, str]]:
    """Pairs of names whose signatures differ in at most ``share`` of their bits and hardly in colour, sorted."""
    allowed = int(share * 2 * GRID * GRID)
    return [
        (one, other)
        for one, other in combinations(sorted(signatures), 2)
        if (signatures[one].bits ^ signatures[other].bits).bit_count() <= allowed
        and int(np.abs(signatures[one].tint - signatures[other].tint).max()) <= TINT
    ]
