"""Étude's own file of an inverted picture, ``<name>-<picture>.safetensors``: no program has a format for it.

``latent`` [1, 4, h, w] is the noise z_T, and ``null_embeddings`` [N, 77, d] the unconditional embedding of each of N
DDIM steps, from noise to picture. The header has all that drawing needs besides a base: ``prompt``, ``guidance``,
``steps``, ``timesteps`` (JSON), ``clip_skip``, ``prediction_type``, and ``base`` with ``base_sha256``.

To draw: z ← latent; for each timestep t, with the UNet's outputs u for null_embeddings[i] and c for the prompt, do the
DDIM step (η = 0) with u + guidance · (c - u).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.files import Draft, file_name
from etude.core.tensors import write_tensors
from etude.core.weights import read_weights
from etude.formats.metadata import file_stem

KEYS = ("latent", "null_embeddings")
NUMBERS = ("guidance", "steps", "timesteps", "clip_skip")  # JSON in the header


def recognise(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether there are noise and embeddings, and nothing else."""
    return set(keys) == set(KEYS)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """``picture.latent`` and ``picture.null_embeddings``, and the facts that drawing needs."""
    tensors, metadata = read_weights(path)
    if not recognise(tensors, metadata) or "prompt" not in metadata:
        raise FormatError(path, "is no inverted picture of Étude", "give a file that *null_text_inversion* exported")
    facts: dict[str, Any] = {name: json.loads(metadata[name]) for name in NUMBERS}
    facts |= {"name": metadata["name"], "pictures": ["picture"], "captions": {"picture": metadata["prompt"]}}
    facts |= {"family": metadata["family"], "prediction": metadata["prediction_type"], "base": metadata["base"]}
    return {f"picture.{key}": tensor for key, tensor in tensors.items()}, facts


def write(artifact: Artifact, draft: Draft) -> list[Path]:
    """One file for each picture, named after it, in the artifact's precision."""
    facts, paths = artifact.facts, []
    base = str(facts.get("base", ""))
    shared = {name: json.dumps(facts[name]) for name in NUMBERS}
    shared |= {"format": "pt", "sampler": "ddim", "name": str(facts["name"]), "family": facts["family"]}
    shared |= {"prediction_type": facts["prediction"], "base": base}
    shared |= {"base_sha256": str(facts.get("inputs", {}).get(base, ""))}
    for name in facts["pictures"]:
        paths.append(draft.path(f"{file_stem(facts)}-{file_name(name)}.safetensors"))
        tensors = {key: artifact.tensors[f"{name}.{key}"] for key in KEYS}
        write_tensors(paths[-1], tensors, shared | {"prompt": facts["captions"][name]})
    return paths
