"""The aesthetic gradient extension's file ``<name>.pt``: one bare tensor [1, d] by ``torch.save``, no dictionary."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.files import Draft
from etude.core.pickles import BARE, read_tensor, write_pickle
from etude.formats.metadata import file_stem

KEY = "embedding"


def recognise(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether the file is a bare tensor."""
    return list(keys) == [BARE]


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensor ``embedding`` [1, d], and the fact name: the file's name."""
    tensor = read_tensor(path)
    if tensor.ndim != 2 or len(tensor) != 1:
        raise FormatError(path, f"is a tensor of shape {list(tensor.shape)}, not [1, d]", "give an aesthetic embedding")
    return {KEY: tensor}, {"name": Path(path).stem}


def write(artifact: Artifact, draft: Draft) -> list[Path]:
    """``<name>.pt`` in the artifact's precision."""
    path = draft.path(f"{file_stem(artifact.facts)}.pt")
    write_pickle(path, torch.clone(artifact.tensors[KEY].detach().cpu()))
    return [path]
