"""diffusers' folder ``<name>/``: ``unet/``, ``vae/``, ``text_encoder/``, tokenizer, scheduler and ``model_index.json``.

diffusers, SD.Next and ComfyUI (as a diffusers model) load it; so does Étude, as a base.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.families import text_parts
from etude.core.files import Draft, atomic_path
from etude.core.model_files import of_part, read_folder
from etude.core.model_folders import STEMS
from etude.core.tensors import write_tensors
from etude.formats.checkpoints import Frame, complete, parts
from etude.formats.metadata import file_stem

INDEX = "model_index.json"
AFTER = ("peft_lora",)  # the folder of a model may also contain adapters


def recognise(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether the files of a folder (its paths are the keys) are those of a pipeline."""
    return "unet/config.json" in keys and any(key.startswith("text_encoder/") for key in keys)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The model's tensors in the common form, and the facts family, prediction and name.

    `etude.base.whole` checks whether it is whole.
    """
    return read_folder(path)


def write(artifact: Artifact, draft: Draft, frame: Frame) -> list[Path]:
    """The folder ``<name>/`` in the artifact's precision; the configuration is the frame's.

    Parts that are not written, such as a safety checker, are left out of ``model_index.json``.
    """
    tensors, home = complete(artifact, frame), file_stem(artifact.facts)
    if INDEX not in frame.files:
        raise FormatError(
            home, "cannot be written without the configuration of a base", "name the base it is made from"
        )
    files = dict(frame.files)
    files[INDEX] = _index(json.loads(files[INDEX]), {name.partition("/")[0] for name in files})
    paths = []
    for name, content in sorted(files.items()):
        paths.append(draft.path(home, *name.split("/")))
        with atomic_path(paths[-1]) as temporary:
            temporary.write_bytes(content)
    for part in parts():
        if own := of_part(tensors, part):
            # transformers leaves `text_model.` out of these names today; older versions and ComfyUI need it.
            text = part in text_parts()
            named = {f"text_model.{n}" if text and n.startswith(_TEXT) else n: tensor for n, tensor in own.items()}
            paths.append(draft.path(home, part, f"{'model' if text else STEMS[0]}.safetensors"))
            write_tensors(paths[-1], named, {"format": "pt"})
    return paths


_TEXT = ("embeddings.", "encoder.", "final_layer_norm.")


def _index(index: Mapping[str, Any], parts: Collection[str]) -> bytes:
    kept = {n: [None, None] if isinstance(v, list) and n not in parts else v for n, v in index.items()}
    kept.pop("_name_or_path", None)  # a path of another machine
    return (json.dumps(kept, indent=2, sort_keys=True) + "\n").encode()
