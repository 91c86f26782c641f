"""The models to merge, as weights by the common names ``<part>.<tensor>``, which are read only when needed.

A model is a whole checkpoint (diffusers folder, ``.safetensors`` or ``.ckpt`` in LDM names), an artifact with changed
weights, or a LoRA (an artifact, or a file in any known format). The latter two need the base.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from etude.core import artifact as artifacts
from etude.core.artifact import KEY
from etude.core.errors import FormatError, InputError
from etude.core.files import read_metadata, read_tensors
from etude.diffusion.factors import by_layer
from etude.formats import identify, keys_of, load_format
from etude.formats.checkpoint import diffusers_checkpoint, ldm_checkpoint
from etude.formats.checkpoints import common, parts
from etude.formats.ldm_names import inverse, translate, vae_table
from etude.formats.lora import peft_lora
from etude.formats.pairs import Pair, is_plain, split

from .low_rank import Fused

Weights = Mapping[str, Tensor]
_VAE = ("first_stage_model.", "vae.")


class Layered(Mapping[str, Tensor]):
    """A model's own weights, and the base's for all others."""

    def __init__(self, own: Weights, below: Weights) -> None:
        self.own, self.below = own, below

    def __getitem__(self, name: str) -> Tensor:
        return self.own[name] if name in self.own else self.below[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.below)

    def __len__(self) -> int:
        return len(self.below)


@dataclass(frozen=True)
class Model:
    """A model to merge: its weights, the names of those that differ from the base, and its pairs if it is a LoRA."""

    weights: Weights
    own: Collection[str]
    pairs: Mapping[str, Pair] | None = None


def open_base(path: Path) -> dict[str, Tensor]:
    """All weights of a base, mapped into memory; raises FormatError."""
    return diffusers_checkpoint.read(path)[0] if path.is_dir() else ldm_checkpoint.read(path)[0]


def open_model(path: Path, base: Weights, family: str) -> Model:
    """A model to merge; raises FormatError if the file is not a model, or belongs to another family than the base."""
    tensors, facts = _read(path)
    if facts.get("family", family) != family:
        fault = f"is of the family {facts['family']}, the base of {family}"
        raise FormatError(path, fault, "merge models of one family")
    if by_layer(tensors):
        if facts.get("words"):
            fault = f"has the embedding of `{facts['words'][0]}` in it, which a merge of weights would lose"
            raise FormatError(path, fault, "remove the tensors that begin with bundle_emb from it")
        fused = Fused(tensors, facts, base)
        _refuse_strange(path, list(fused), base)
        return Model(Layered(fused, base), list(fused), split(tensors, facts) if is_plain(tensors) else None)
    if not tensors or any(name.partition(".")[0] not in parts() for name in tensors):
        fault = f"contains no weights of a model, only {', '.join(sorted(tensors)[:3])}"
        raise FormatError(path, fault, "name a checkpoint, a LoRA, or the build of a method that changes weights")
    _refuse_strange(path, tensors, base)
    return Model(Layered(tensors, base), list(tensors))


def _refuse_strange(path: Path, names: Collection[str], base: Weights) -> None:
    strange = sorted(name for name in names if name not in base)
    if strange:
        fault = f"contains {len(strange)} weights that the base does not have, such as {strange[0]}"
        raise FormatError(path, fault, "merge models of one family, on a base of the same family")


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors in the common form of their kind, and facts."""
    built = path / "artifact.safetensors"
    path = built if built.exists() else path
    if path.is_dir() and not peft_lora.recognise(keys_of(path)[0], {}):
        return diffusers_checkpoint.read(path)
    if not path.exists():
        raise InputError(path, "is missing", "correct `models`, or run `dvc repro`")
    if path.is_file() and path.suffix.lower() == ".safetensors" and KEY in read_metadata(path):
        artifact = artifacts.load(path)
        return artifact.tensors, artifact.facts
    return load_format(identify(path)).read(path)


def open_vae(path: Path) -> dict[str, Tensor]:
    """The weights of a VAE: from a whole model, or from a VAE's own file or folder; raises FormatError."""
    if (path / "unet").is_dir():
        return {name: tensor for name, tensor in open_base(path).items() if name.startswith("vae.")}
    for stem in ("diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"):
        path = path / stem if (path / stem).exists() else path
    if path.is_dir() or path.suffix.lower() != ".safetensors":
        raise FormatError(path, "is no VAE", "name a .safetensors file or a diffusers folder")
    tensors = {re.sub(f"^({'|'.join(_VAE)})", "", n): t for n, t in read_tensors(path)[0].items() if _is_vae(n)}
    if not any(name.startswith("decoder.") for name in tensors):
        raise FormatError(path, "holds no VAE", "name a file that does")
    if any(name.startswith("encoder.down.") for name in tensors):
        table = inverse(vae_table(tensors))
        named = {translate(name, table): tensor for name, tensor in tensors.items()}
        tensors = {name: _flat(name, tensor) for name, tensor in named.items() if name}
    return common("vae", tensors)


def _is_vae(name: str) -> bool:
    return name.startswith((*_VAE, "encoder.", "decoder.", "quant_conv.", "post_quant_conv."))


def _flat(name: str, tensor: Tensor) -> Tensor:
    """The tensor of a linear layer, if it is one of LDM's 1 × 1 convolutions in an attention layer."""
    return tensor[:, :, 0, 0] if ".mid_block.attentions." in name and tensor.ndim == 4 else tensor
