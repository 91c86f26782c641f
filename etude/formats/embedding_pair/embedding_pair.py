"""DreamArtist's two words as A1111's embeddings: ``<name>.pt`` and ``<name>-neg.pt``, and the same as ``.safetensors``.

Each of the four is an ordinary embedding; only their names show that they are a pair. The negative word goes into
the negative prompt. From either kind of file, A1111 (2025-11-12) lists both words, and in this list the DreamArtist
extension (2023-01-05) looks for them. A pair that the extension saved is read without changes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.files import Draft
from etude.formats.embedding import embedding_pt, embedding_safetensors
from etude.formats.metadata import marked

ENDS = {"positive": ("",), "negative": ("-neg", "-uc")}  # DreamArtist's first code wrote "-uc"
MODULES = {".pt": embedding_pt, ".safetensors": embedding_safetensors}


def recognise(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Never: by its keys, each file is an embedding of one word."""
    return False


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Rows as ``positive.<text encoder>`` and ``negative.<text encoder>``, from ``<name>`` and the file beside it."""
    path, beside = Path(path), partner(path)
    if beside is None:
        names = " or ".join(f"{Path(path).stem}{end}{Path(path).suffix}" for end in ENDS["negative"])
        raise FormatError(path, f"has no {names} beside it", "put that file there, or give the positive file of a pair")
    module = MODULES[path.suffix.lower()]
    positive, facts = module.read(path)
    negative, _ = module.read(beside)
    sides = {"positive": positive, "negative": negative}
    tensors = {f"{side}.{part}": rows for side, found in sides.items() for part, rows in found.items()}
    return tensors, {**facts, "name": path.stem}


def partner(path: Path) -> Path | None:
    """The file of the negative word beside that of the positive one; None: the file is no half of a pair."""
    if path.suffix.lower() not in MODULES:
        return None
    files = (path.with_stem(path.stem + end) for end in ENDS["negative"])
    return next((file for file in files if file.exists()), None)


def write(artifact: Artifact, draft: Draft) -> list[Path]:
    """The four files."""
    paths = []
    for side, (end, *_) in ENDS.items():
        own = {name: tensor for name, tensor in artifact.tensors.items() if name.startswith(f"{side}.")}
        rows = {name.removeprefix(f"{side}."): tensor for name, tensor in own.items()}
        marks = (artifact.facts.get("mark"), end.removeprefix("-"))
        named = marked(Artifact(artifact.method, rows, artifact.facts), "-".join(mark for mark in marks if mark))
        paths += [path for module in MODULES.values() for path in module.write(named, draft)]
    return paths
