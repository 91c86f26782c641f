"""kohya's and ComfyUI's embedding file ``<name>.safetensors``, which A1111 and SD.Next load too.

``emb_params`` [n, d], or ``clip_l`` and ``clip_g`` for SDXL. The trigger word is the file's name, and is in the
header as ``modelspec.trigger_phrase`` for programs that rename files. A pickle with these keys is read as well, and so
are the keys of OneTrainer (``emp_params``) and of diffusers' advanced training scripts (``text_encoders_0`` and
``text_encoders_1``). ``clip_l`` alone is an embedding of SD 1.x, ``clip_h`` one of SD 2.x, as ComfyUI reads them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.files import Draft
from etude.core.pickles import read_either
from etude.core.tensors import write_tensors
from etude.formats.embeddings import keys_of, missing_keys, parts_of, rows, unknown
from etude.formats.metadata import modelspec, word, word_stem

KEY = "emb_params"


def recognise(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether all keys are one program's: ``emb_params``, or ``clip_l`` and ``clip_g`` …; some may be missing."""
    return bool(parts_of(keys) or missing_keys(keys))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Rows by text encoder, and the fact name: the trigger word of the header, else the file's name."""
    tensors, metadata = read_either(path)
    if not recognise(tensors, metadata):
        raise unknown(path, tensors)
    facts = {"name": metadata.get("modelspec.trigger_phrase") or Path(path).stem}
    parts = parts_of(tensors)
    if not parts:
        have, lack = "`, `".join(sorted(tensors)), "`, `".join(missing_keys(tensors))
        raise FormatError(
            path, f"holds `{have}` but no `{lack}`: half of an embedding", "fetch or make it again, whole"
        )
    return rows(path, {part: tensors[key] for key, part in parts.items()}), facts


def write(artifact: Artifact, draft: Draft) -> list[Path]:
    """``<name>.safetensors`` in the artifact's precision."""
    keys = keys_of(artifact.tensors) or {"text_encoder": KEY}
    tensors = {keys[part]: tensor.contiguous() for part, tensor in artifact.tensors.items()}
    path = draft.path(f"{word_stem(artifact.facts)}.safetensors")
    labels = modelspec({**artifact.facts, "name": word(artifact.facts)}, "textual-inversion")
    write_tensors(path, tensors, {"format": "pt"} | labels)
    return [path]
