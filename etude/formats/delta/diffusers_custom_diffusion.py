"""diffusers' files of Custom Diffusion: ``pytorch_custom_diffusion_weights.bin`` and a ``<word>.bin`` for each word.

The first has ``<attention>.processor.to_k_custom_diffusion.weight`` and so on, and an empty dictionary for each layer
of self-attention: diffusers (0.42) does not load it without these. So it cannot be a safetensors file. It is loaded by
``pipe.unet.load_attn_procs(folder, weight_name=…, _pipeline=pipe)``, the words by ``pipe.load_textual_inversion``.
Without ``_pipeline``, diffusers 0.42 loads nothing and gives no error. With it, one call of the UNet in float32 gives
what Étude computes, within 1e-5.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.files import Draft
from etude.core.pickles import read_pickle, write_pickle
from etude.core.spelling import as_read
from etude.core.weights import read_weights
from etude.formats.checkpoints import Frame
from etude.formats.deltas import common, wholes, words
from etude.formats.metadata import file_stem

FILE = "pytorch_custom_diffusion_weights.bin"
_OWN = re.compile(r"\.processor\.(to_[qkv]|to_out)_custom_diffusion\.")
_LAYER = re.compile(r"\.attn2\.(to_[qkv]|to_out)\.")


def recognise(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether there are processors of Custom Diffusion."""
    return any(_OWN.search(key) for key in keys)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Whole weights; words are in separate files. The processors of other attention are dictionaries with nothing."""
    data: Mapping[str, Any] = read_weights(path)[0] if path.suffix.lower() == ".safetensors" else read_pickle(path)
    if not recognise(data, {}):
        raise FormatError(path, "holds no processors of Custom Diffusion", f"give a {FILE} of diffusers")
    weights = {key: value for key, value in data.items() if isinstance(value, Tensor) or value != {}}
    for key, value in weights.items():
        if isinstance(value, Tensor) and not value.numel():
            raise FormatError(path, f"`{key[:120]}` is empty: {list(value.shape)}", "fetch or make it again")
    return common({_OWN.sub(r".\1.", key): tensor for key, tensor in weights.items()}, {}, delta=False)


def write(artifact: Artifact, draft: Draft, frame: Frame) -> list[Path]:
    """The weights as one file, and each word as one (SDXL: ``<word>_2.bin`` for its second text encoder)."""
    data: dict[str, Any] = {}
    for name in sorted(frame.tensors):
        if name.startswith("unet.") and name.endswith(".attn1.to_q.weight"):
            attention = name.removeprefix("unet.").removesuffix(".to_q.weight")
            data[f"{attention}.processor"] = {}
    for name, tensor in wholes(artifact, frame).items():
        data[_LAYER.sub(r".attn2.processor.\1_custom_diffusion.", name)] = tensor.clone()
    paths = [draft.path(FILE)]
    write_pickle(paths[0], data)
    for word, rows in words(artifact).items():
        for number, (_, row) in enumerate(sorted(rows.items())):
            stem = file_stem({**artifact.facts, "name": word})
            paths.append(draft.path(f"{stem}{'_2' if number else ''}.bin"))
            write_pickle(paths[-1], {as_read(word): row[0].clone()})  # the spelling that diffusers looks for
    return paths
