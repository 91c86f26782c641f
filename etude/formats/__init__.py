"""One module per file format of the ecosystem: tensor dictionaries in, files out, and back. No model is imported.

Every format has ``recognise(keys, metadata)``, ``read(path)`` and ``write(artifact, draft)``. The tensors that `read`
gives and `write` takes have one form for each kind of artifact, whatever the file calls them:

- LoRA: ``<part>.<module>.lora_A.weight`` [r, in(, k, k)] and ``.lora_B.weight`` [out, r(, 1, 1)], where a part is
  ``unet``, ``text_encoder`` or ``text_encoder_2`` and modules have diffusers' names, without ``text_model.``;
  LoHa, LoKr and DoRA have factors of LyCORIS' names (`etude.diffusion.factors` tells what they amount to)
- embedding: ``text_encoder`` [n, d] and, for SDXL, ``text_encoder_2`` [n, d₂]
- hypernetwork: ``<width>.<k or v>.<layer>.<linear, norm or activation>.<weight or bias>``
- aesthetic embedding: ``embedding`` [1, d]; CLIP image embedding: ``clip_image_embeds`` [1, d]
- layers and words: ``unet.<parameter>`` (or its difference, ``….delta``) and ``words.<i>.<part>`` (`deltas`)
- inverted pictures: ``<picture>.latent`` [1, 4, h, w] and ``<picture>.null_embeddings`` [N, 77, d]
- checkpoint: ``<part>.<tensor>``, all tensors of a model or those that were learned (`checkpoints`)

A format whose files hold whole models asks for the rest of the model: its ``write`` has an argument ``frame``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.files import Draft, read_header
from etude.formats import embedding_image
from etude.formats.checkpoints import Frame
from etude.formats.pickles import pickle_keys

FORMATS = (
    "kohya_lora",
    "diffusers_lora",
    "peft_lora",
    "aesthetic_pt",
    "clip_image_embedding",
    "embedding_pt",
    "embedding_image",
    "embedding_pair",
    "embedding_safetensors",
    "diffusers_embedding",
    "hypernetwork_pt",
    "adobe_delta",
    "webui_delta",
    "diffusers_custom_diffusion",
    "ldm_checkpoint",
    "diffusers_checkpoint",
    "null_text",
)


class Format(Protocol):
    """What a module of this room offers."""

    def recognise(self, keys: Collection[str], metadata: Mapping[str, str]) -> bool:
        """Whether a file with these tensor names and metadata has this format."""

    def read(self, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors in the common form, and what else the file tells; raises FormatError."""

    @property
    def write(self) -> Callable[..., list[Path]]:
        """``write(artifact, draft[, frame])``: fill the draft of a folder; equal artifacts give equal bytes."""


def load_format(name: str) -> Format:
    """The module ``etude.formats.<name>``."""
    return cast("Format", import_module(f"etude.formats.{name}"))


def write(name: str, artifact: Artifact, draft: Draft, frame: Callable[[], Frame]) -> list[Path]:
    """Write an artifact in the format ``name``; ``frame`` is called by formats that hold whole models, by no other."""
    module = load_format(name)
    asked = "frame" in inspect.signature(module.write).parameters
    return module.write(artifact, draft, frame()) if asked else module.write(artifact, draft)


def identify(path: Path | str) -> str:
    """The name of a file's format, told by its keys; raises FormatError naming them when it is none of FORMATS.

    The keys of a folder are the paths in it.
    """
    path = Path(path)
    if path.is_dir():
        keys, metadata = [file.relative_to(path).as_posix() for file in path.rglob("*")], {}
    elif path.suffix == ".safetensors":
        header = read_header(path)
        metadata = dict(header.pop("__metadata__", {}))
        keys = list(header)
    elif path.suffix in embedding_image.SUFFIXES:
        embedding_image.read_dictionary(path)
        keys, metadata = [embedding_image.CHUNK], {}
    else:
        keys, metadata = pickle_keys(path), {}
    for name in FORMATS:
        if load_format(name).recognise(keys, metadata):
            return name
    some = ", ".join(sorted(keys)[:5])
    raise FormatError(path, f"has a form that is not known (keys: {some} …)", f"give one of {', '.join(FORMATS)}")
