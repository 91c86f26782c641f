"""Artifacts, the results of methods: tensors and facts, in one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.core.errors import FormatError
from etude.core.tensors import read_metadata, write_tensors
from etude.core.weights import in_precision, read_weights

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}  # ours and torch's names
KEY = "etude"  # the metadata entry that contains the facts


@dataclass(frozen=True)
class Artifact:
    """What was learned (``tensors``) and how (``facts``: JSON values; params, base digest, family, seed, step …).

    While `fit` runs, the tensors are those that are being trained. They are saved in ``precision``: fp32, fp16, bf16,
    or their own (None).
    """

    method: str
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    precision: str | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which the tensors are saved; float32 if there are none."""
        import torch

        if self.precision:
            dtype: torch.dtype = getattr(torch, PRECISIONS[self.precision])
            return dtype
        return next(iter(self.tensors.values())).dtype if self.tensors else torch.float32

    def copied(self) -> Artifact:
        """A copy on the CPU in the precision of saving, which further training does not change.

        Raises FormatError if that precision cannot hold a number.
        """
        path, tensors = f"pipelines/{self.method}/params.yaml", {}
        for name, tensor in self.tensors.items():
            tensors[name] = in_precision(path, name, tensor, self.dtype if self.precision else tensor.dtype)
        return replace(self, tensors=tensors)


def save(artifact: Artifact, path: Path | str) -> None:
    """Write one safetensors file, in the artifact's precision; equal artifacts give equal bytes."""
    if artifact.precision:
        artifact = artifact.copied()
    facts = {"method": artifact.method, **artifact.facts}
    text = json.dumps(facts, sort_keys=True, ensure_ascii=True, allow_nan=False)
    write_tensors(path, artifact.tensors, {KEY: text, "format": "pt"})


def load(path: Path | str) -> Artifact:
    """Read an artifact; raises FormatError if the file is not one."""
    tensors, metadata = read_weights(path)
    facts = _facts(path, metadata)
    return Artifact(facts.pop("method"), tensors, facts)


def built(path: Path) -> Path:
    """The artifact file in a build's folder; any other path is returned unchanged."""
    file = path / "artifact.safetensors"
    return file if file.exists() else path


def is_artifact(path: Path) -> bool:
    """Whether a file says in its header that it is an artifact."""
    return path.is_file() and path.suffix.lower() == ".safetensors" and KEY in read_metadata(path)


def facts_of(path: Path | str) -> dict[str, Any]:
    """The facts in an artifact's header, and the ``method``; the tensors are not read. Raises FormatError."""
    return _facts(path, read_metadata(path))


def _facts(path: Path | str, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        facts = json.loads(metadata.get(KEY, "{}"))
    except (ValueError, RecursionError):
        facts = {}
    if not isinstance(facts, dict) or "method" not in facts:
        action = "name a file under artifacts/<method>/build, or run `dvc repro` to build it again"
        raise FormatError(path, "is not an artifact of Étude", action)
    return facts
