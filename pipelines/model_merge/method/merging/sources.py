"""The models to merge, as weights by the common names ``<part>.<tensor>``, which are read only when needed.

A model is a whole checkpoint (diffusers folder, ``.safetensors`` or ``.ckpt`` in LDM names), an artifact with changed
weights, or a LoRA (an artifact, or a file in any known format). The latter two need the base.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from etude.base.family import recognise
from etude.base.vae import read_vae, refuse_other_config
from etude.base.whole import read_model
from etude.core import artifact as artifacts
from etude.core.errors import FormatError, InputError
from etude.core.factors import by_layer
from etude.core.families import FAMILIES
from etude.formats import Read, identify, read
from etude.formats.checkpoints import parts
from etude.formats.pairs import Pair, is_plain, split

from .low_rank import Fused

Weights = Mapping[str, Tensor]


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
    """All weights of a base, mapped into memory; raises BaseError."""
    return read_model(path)[0]


def open_model(path: Path, base: Weights, family: str, *, without_vae: bool = False) -> Model:
    """A model to merge; raises an EtudeError if it is no model, or of another family than the base.

    ``without_vae``: its VAE is replaced, so that the VAE of a whole model is not read, and may be missing.
    """

    def read_like_base(whole: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        _refuse_other(path, recognise(whole, without_vae=without_vae), family)
        wanted = [part for part in parts() if part != "vae"] if without_vae else None
        return read_model(whole, wanted, expected={name: tensor.shape for name, tensor in base.items()})

    tensors, facts = _read(path, read_like_base)
    _refuse_other(path, facts.get("family", family), family)
    if by_layer(tensors):
        if facts.get("words"):
            fault = f"has the embedding of `{facts['words'][0]}` in it, which a merge of weights would lose"
            raise FormatError(path, fault, "remove the tensors that begin with bundle_emb from it")
        fused = Fused(tensors, facts, base)
        _refuse_strange(path, list(fused), base)
        return Model(Layered(fused, base), list(fused), split(tensors, facts) if is_plain(tensors) else None)
    others = sorted(name for name in tensors if name.partition(".")[0] not in parts())
    if others or not tensors:
        told = f"tensors that are no weights of a model, such as {', '.join(others[:3])}"
        fault = f"contains {told if others else 'no tensors'}"
        raise FormatError(path, fault, "give a checkpoint, a LoRA, or the build of a method that changes weights")
    _refuse_strange(path, tensors, base)
    for name, tensor in tensors.items():
        if tensor.shape != base[name].shape:
            fault = f"has `{name}` with the shape {list(tensor.shape)}, but the base has {list(base[name].shape)}"
            raise FormatError(path, fault, "merge models of one family and kind")
    return Model(Layered(tensors, base), list(tensors))


def _refuse_other(path: Path, found: str, family: str) -> None:
    if found != family:
        raise FormatError(path, f"is of the family {found}, but the base is of {family}", "merge models of one family")


def _refuse_strange(path: Path, names: Collection[str], base: Weights) -> None:
    strange = sorted(name for name in names if name not in base)
    if strange:
        fault = f"contains {len(strange)} weights that the base does not have, such as {strange[0]}"
        raise FormatError(path, fault, "merge models of one family, on a base of the same family")


def _read(path: Path, whole: Read) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors in the common form of their kind, and facts."""
    path = artifacts.built(path)
    if not path.exists():
        raise InputError(path, "is missing", "correct `models`, or run `dvc repro`")
    if artifacts.is_artifact(path):
        artifact = artifacts.load(path)
        return artifact.tensors, artifact.facts
    return read(identify(path), path, whole)


def open_vae(path: Path, base: Path, family: str) -> dict[str, Tensor]:
    """The weights of a VAE, from its own file or folder or from a whole model, for the model in ``base``.

    Raises BaseError, also if the VAE has another configuration than that of the base.
    """
    tensors = read_vae(path, FAMILIES[family], base)
    refuse_other_config(path, FAMILIES[family], base)
    return tensors
