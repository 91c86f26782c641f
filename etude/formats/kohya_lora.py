"""kohya's LoRA file, which A1111, SD.Next, ComfyUI, Forge, kohya and diffusers load: ``<name>.safetensors``.

``lora_unet_<module>.lora_down.weight``, ``.lora_up.weight`` and ``.alpha``; text encoders ``lora_te_text_model_…``
(SDXL: ``lora_te1_…`` and ``lora_te2_…``). What is read may lack alphas (alpha = rank).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etude.artifact import Artifact
from etude.files import read_tensors, write_tensors
from etude.formats import metadata as headers
from etude.formats.module_names import escape, unescape
from etude.formats.pairs import collect, join, split, unknown

PREFIXES = {
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}
SUFFIXES = {
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "alpha": "alpha",
}


def recognise(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether every key starts with one of kohya's prefixes."""
    return bool(keys) and all(key.startswith(tuple(PREFIXES)) for key in keys)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors in the common form; facts rank, alpha, alphas, and name and family when the header has them."""
    tensors, metadata = read_tensors(path)
    found: dict[str, dict[str, Tensor]] = defaultdict(dict)
    strange = []
    for key, tensor in tensors.items():
        escaped, _, suffix = key.partition(".")
        module = _module(escaped)
        if module and suffix in SUFFIXES:
            found[module][SUFFIXES[suffix]] = tensor
        else:
            strange.append(key)
    if strange:
        raise unknown(path, strange)
    common, facts = join(collect(path, found, {}))
    return common, facts | _told(metadata)


def _module(escaped: str) -> str | None:
    for prefix, part in PREFIXES.items():
        if escaped.startswith(prefix):
            module = unescape(escaped.removeprefix(prefix))
            return f"{part}.{module}" if module else None
    return None


def _told(metadata: Mapping[str, str]) -> dict[str, Any]:
    facts = {}
    if metadata.get("ss_output_name", "None") != "None":
        facts["name"] = metadata["ss_output_name"]
    version = metadata.get("ss_base_model_version", "")
    family = next((name for name, known in headers.BASE_VERSIONS.items() if version.startswith(known)), None)
    if family:
        facts |= {"family": family, "prediction": "v_prediction" if version.endswith("_v") else "epsilon"}
    return facts


def write(artifact: Artifact, folder: Path) -> list[Path]:
    """``<name>.safetensors`` with alphas, ``ss_*`` and ``modelspec.*`` metadata and kohya's hashes."""
    sdxl = artifact.facts["family"] == "sdxl"
    prefixes = {"unet": "lora_unet_", "text_encoder": "lora_te1_text_model_" if sdxl else "lora_te_text_model_"}
    prefixes["text_encoder_2"] = "lora_te2_text_model_"
    tensors = {}
    for name, pair in split(artifact.tensors, artifact.facts).items():
        part, _, module = name.partition(".")
        escaped = prefixes[part] + escape(module)
        tensors[f"{escaped}.lora_down.weight"] = pair.down.contiguous()
        tensors[f"{escaped}.lora_up.weight"] = pair.up.contiguous()
        tensors[f"{escaped}.alpha"] = torch.tensor(pair.alpha)  # float32 even beside fp16: any alpha is exact enough
    metadata = headers.kohya(artifact.facts)
    metadata |= headers.hashes(tensors, metadata) | headers.modelspec(artifact.facts, "lora")
    path = folder / f"{headers.file_stem(artifact.facts)}.safetensors"
    write_tensors(path, tensors, metadata)
    return [path]
