"""A1111's embeddings inside pictures: ``<name>.png`` with the dictionary of `embedding_pt` as JSON.

It is in the text chunk ``sd-ti-embedding`` (base64), and again in the pixels, because some programs drop texts:
compressed bytes, the low halves in a block left of the picture and the high halves in a block right of it. The values
of a block are XORed with a fixed sequence; a black column separates it from the picture. Written from the description
of the format.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.files import Draft, atomic_path
from etude.core.magic import what_instead
from etude.core.pictures import DAMAGE, describe, open_whole, plugins
from etude.core.weights import checked
from etude.formats.embeddings import labels, one_vector, rows
from etude.formats.metadata import word, word_stem

CHUNK = "sd-ti-embedding"
TENSOR = "TORCHTENSOR"  # a tensor in the JSON: {"TORCHTENSOR": nested lists}
SUFFIXES = (".png", ".webp", ".avif", ".jxl")
HALF = np.uint8(0x0F)
MOST = 1 << 26  # bytes of pixels, and of what they hold: no embedding has more
SIDE = 64  # px of the picture that is written
Bytes = NDArray[np.uint8]


def recognise(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether a picture holds an embedding: `etude.formats.keys_of` gives it only this key."""
    return CHUNK in keys


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Rows by text encoder, and the facts name and step: the name inside if there is one, else the file's."""
    data = read_dictionary(path)
    vector = one_vector(path, data)
    if not isinstance(vector, Tensor):
        raise FormatError(path, "holds an embedding whose rows are no tensor", "give another picture of an embedding")
    return rows(path, {"text_encoder": checked(path, "string_to_param", vector)}), {
        "name": Path(path).stem,
        **labels(data),
    }


def read_dictionary(path: Path | str) -> dict[str, Any]:
    """The dictionary in a picture, from its text or else from its pixels; raises FormatError."""
    action = "give a picture that A1111 made of an embedding"
    try:
        image = open_whole(path, "PNG", "WEBP", "AVIF", *plugins())
        text = image.info.get(CHUNK)
        packed = base64.b64decode(text) if text else _unhidden(np.asarray(image.convert("RGB")))
        data = json.loads(packed, object_hook=_tensors)
    except FileNotFoundError:
        raise FormatError(path, "is missing", "check the path") from None
    except DAMAGE as error:
        instead = what_instead(path, "picture") or (f"holds no embedding ({describe(error, Path(path))})", action)
        raise FormatError(path, *instead) from error
    if not isinstance(data, dict):
        raise FormatError(path, "holds no dictionary", action)
    return data


def write(artifact: Artifact, draft: Draft) -> list[Path]:
    """``<name>.png``: a small grey picture with the embedding in its text and in its pixels. SDXL has no such form."""
    if set(artifact.tensors) != {"text_encoder"}:
        raise FormatError(
            "embedding_image", "holds rows for one text encoder, but SDXL has two", "use embedding_safetensors"
        )
    data = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": {TENSOR: artifact.tensors["text_encoder"].detach().float().tolist()}},
        "name": word(artifact.facts),
        "step": artifact.facts.get("step"),
        "sd_checkpoint": None,
        "sd_checkpoint_name": artifact.facts.get("base"),
    }
    packed = json.dumps(data, sort_keys=True).encode()
    information = PngInfo()
    information.add_text(CHUNK, base64.b64encode(packed).decode())
    path = draft.path(f"{word_stem(artifact.facts)}.png")
    with atomic_path(path) as temporary:
        Image.fromarray(_hidden(packed)).save(temporary, format="PNG", pnginfo=information, compress_level=1)
    return [path]


def _tensors(found: dict[str, Any]) -> Any:
    return torch.tensor(found[TENSOR]) if TENSOR in found else found


def _hidden(packed: bytes) -> Bytes:
    """A grey picture between the two blocks of ``packed``."""
    data = np.frombuffer(zlib.compress(packed, 9), np.uint8)
    length = -(-len(data) // (3 * SIDE)) * 3 * SIDE
    data = np.concatenate([data, np.zeros(length - len(data), np.uint8)]).reshape(SIDE, -1, 3)
    low, high = ((half ^ _sequence(half.shape)) | 0x80 for half in (data & HALF, data >> 4))
    line, grey = np.zeros((SIDE, 1, 3), np.uint8), np.full((SIDE, SIDE, 3), 0x77, np.uint8)
    return np.concatenate([low, line, grey, line, high], axis=1)


def _unhidden(pixels: Bytes) -> bytes:
    """What the blocks beside a picture hold; raises ValueError when there are none."""
    if pixels.size > MOST:
        raise ValueError("it is too large for the picture of an embedding")
    bright = pixels.max(axis=2) > 0
    across, down = np.flatnonzero(bright.any(axis=0)), np.flatnonzero(bright.any(axis=1))
    if not len(across):
        raise ValueError("it is black")
    halves = pixels[down[0] : down[-1] + 1, across[0] : across[-1] + 1] & HALF
    lines = np.flatnonzero(halves.max(axis=(0, 2)) == 0)
    if len(lines) < 2:
        raise ValueError("it has neither the text nor the blocks of an embedding")
    low, high = halves[:, : lines[0]], halves[:, lines[-1] + 1 :]
    if low.shape != high.shape or not low.size:
        raise ValueError("it has no two equal blocks")
    low, high = (half ^ _sequence(half.shape) for half in (low, high))
    return zlib.decompressobj().decompress(((high << 4) | low).tobytes(), MOST)


def _sequence(shape: tuple[int, ...]) -> Bytes:
    """The values with which a block is XORed."""
    values = np.fromiter(islice(_congruential(), int(np.prod(shape))), np.uint8)
    return (values & HALF).reshape(shape)


def _congruential() -> Iterator[int]:
    """xₙ₊₁ = (1664525 xₙ + 1013904223) mod 2³² from 0, each modulo 255."""
    state = 0
    while True:
        state = (1664525 * state + 1013904223) % 2**32
        yield state % 255
