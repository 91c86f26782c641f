"""Which pictures have the same pixels, exactly or nearly."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GRID = 16  # the signature compares neighbours on a grid of 16 × 16 cells, across and down: 512 bits
FLAT = 3  # grey levels (of 255) by which neighbours must differ, so that plain areas don't flicker
WORDS, LEVELS = 2 * GRID * GRID // 64, 4 * 4 * 3  # in a signature: words of 64 bits, and levels of colour
MIDDLE = 27  # the level by which signatures are sorted: the red of a cell in the middle of the picture
FIRST = 8  # every eighth level is compared before all of them are
TINT = 24  # levels (of 255) by which the 4 × 4 colour cells of near duplicates may differ


def pixel_hash(image: Image.Image) -> str:
    """Hex SHA-256 of mode, size and pixels: equal for equal pictures, whatever the files around them."""
    digest = hashlib.sha256(f"{image.mode} {image.width}x{image.height}\0".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


class Signature(NamedTuple):
    """What survives re-compression and resizing: 512 bits of relative brightness, and 48 colour levels."""

    bits: NDArray[np.uint64]
    tint: NDArray[np.int16]

    def text(self) -> str:
        """The signature as text, which `of_text` reads."""
        return self.bits.tobytes().hex() + self.tint.astype(np.uint8).tobytes().hex()

    @classmethod
    def of_text(cls, text: str) -> Signature:
        """The signature with this text."""
        data = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
        bits, tint = data[: 8 * WORDS], data[8 * WORDS :]
        return cls(bits.view(np.uint64), tint.reshape(4, 4, 3).astype(np.int16))


def signature(image: Image.Image) -> Signature:
    """The perceptual signature (a difference hash) of an RGB image."""
    grey = image.convert("L")
    across = np.asarray(grey.resize((GRID + 1, GRID), Image.Resampling.BOX), dtype=np.int16)
    down = np.asarray(grey.resize((GRID, GRID + 1), Image.Resampling.BOX), dtype=np.int16)
    bits = np.concatenate([(np.diff(across, axis=1) >= FLAT).ravel(), (np.diff(down, axis=0) >= FLAT).ravel()])
    tint = np.asarray(image.resize((4, 4), Image.Resampling.BOX), dtype=np.int16)
    return Signature(np.packbits(bits).view(np.uint64), tint)


def near_duplicates(signatures: dict[str, Signature], share: float) -> list[tuple[str, str]]:
    """Pairs of names whose signatures differ in at most ``share`` of their bits and hardly in colour, sorted."""
    allowed, names = int(share * 2 * GRID * GRID), list(signatures)
    bits = np.array([signatures[name].bits for name in names], dtype=np.uint64).reshape(len(names), WORDS)
    tints = np.array([signatures[name].tint for name in names], dtype=np.int16).reshape(len(names), LEVELS)
    # Sorted by a level of colour, only neighbours can be near duplicates: few pairs of a large set are compared.
    order = np.argsort(tints[:, MIDDLE], kind="stable")
    bits, tints = bits[order], tints[order]
    counts, means = np.bitwise_count(bits).sum(axis=1, dtype=np.int16), tints.sum(axis=1, dtype=np.int16)
    # The cheapest comparisons are first, and each leaves few pairs to the next.
    columns = np.ascontiguousarray(tints[:, ::FIRST].T)
    ends = np.searchsorted(tints[:, MIDDLE], tints[:, MIDDLE] + TINT, side="right")
    pairs = []
    for place, end in enumerate(ends):
        others = slice(place + 1, end)
        near = place + 1 + np.flatnonzero(np.abs(counts[others] - counts[place]) <= allowed)
        near = near[np.abs(means[near] - means[place]) <= TINT * LEVELS]
        for column in columns:
            if not near.size:
                break
            near = near[np.abs(column[near] - column[place]) <= TINT]
        if not near.size:
            continue
        near = near[np.bitwise_count(bits[near] ^ bits[place]).sum(axis=1) <= allowed]
        near = near[np.abs(tints[near] - tints[place]).max(axis=1, initial=0) <= TINT]
        for other in near:
            one, another = sorted((names[order[place]], names[order[other]]))
            pairs.append((one, another))
    return sorted(pairs)
