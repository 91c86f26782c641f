"""PEFT's folder ``<name>/<part>/``: ``adapter_model.safetensors`` and ``adapter_config.json`` for each part.

An adapter is for one model, so a LoRA of the UNet and of text encoders has several; ``PeftModel.from_pretrained`` takes
one. CLIP's layers have transformers' present names (≥ 5.6: without ``text_model.`` in CLIPTextModel).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.factors import by_layer
from etude.core.families import FAMILIES, PROJECTED, learned_parts, text_parts
from etude.core.files import Draft, write_json
from etude.core.tensors import write_tensors
from etude.formats.lora import diffusers_lora
from etude.formats.lora.diffusers_lora import CONFIG, PREFIX
from etude.formats.metadata import file_stem
from etude.formats.pairs import Pair, join, ranks_and_alphas, split

FILE = "adapter_model.safetensors"
FILES = (FILE, "adapter_model.bin")


def recognise(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether the files of a folder (its paths are the keys) are an adapter, or one adapter for each part."""
    places = {f"{part}/{file}".lstrip("/") for part in ("", *learned_parts()) for file in FILES}
    return not places.isdisjoint(keys)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors in the common form, and the facts rank, alpha, alphas and name; raises FormatError."""
    path = Path(path)
    common: dict[str, Tensor] = {}
    known: dict[str, tuple[int, float]] = {}
    for part in ("", *learned_parts()):
        file = next((path / part / name for name in FILES if (path / part / name).is_file()), None)
        if file is None:
            continue
        tensors, facts = diffusers_lora.read(file)
        for name, tensor in tensors.items():
            if (placed := _placed(name, part)) in common:
                raise FormatError(path, f"has `{placed}` twice, in the folder and in {part}", "remove one of the two")
            common[placed] = tensor
        alphas = facts.get("alphas", {})
        for layer in sorted(by_layer(tensors)):
            known[_placed(layer, part)] = facts["rank"], alphas.get(layer, facts["alpha"])
    if not common:
        raise FormatError(path, f"holds no {FILE}", "give a folder that PEFT saved")
    return common, ranks_and_alphas(known) | {"name": path.name}


def _placed(name: str, part: str) -> str:
    """The name under the part that its folder is named after: both of SDXL's text encoders have the same layers."""
    return f"{part}.{name.partition('.')[2]}" if part in text_parts() else name


def write(artifact: Artifact, draft: Draft) -> list[Path]:
    """Two files for each part of the model: configuration and weights; other alphas are in ``alpha_pattern``."""
    pairs: dict[str, dict[str, Pair]] = defaultdict(dict)
    wrapped = {e.part for e in FAMILIES[artifact.facts["family"]].text_encoders if e.model == PROJECTED}
    for name, pair in split(artifact.tensors, artifact.facts).items():
        part, _, module = name.partition(".")
        pairs[part][f"text_model.{module}" if part in wrapped else module] = pair
    paths = []
    for part, own in sorted(pairs.items()):
        names = (file_stem(artifact.facts), part)
        paths += [draft.path(*names, CONFIG), draft.path(*names, FILE)]
        tensors = {f"{PREFIX}{module}.lora_A.weight": pair.down.contiguous() for module, pair in own.items()}
        tensors |= {f"{PREFIX}{module}.lora_B.weight": pair.up.contiguous() for module, pair in own.items()}
        write_json(paths[-2], _config(own))
        write_tensors(paths[-1], tensors, {"format": "pt"})
    return paths


def _config(pairs: Mapping[str, Pair]) -> dict[str, Any]:
    """What PEFT's LoraConfig is made from."""
    _, facts = join(pairs)
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": facts["rank"],
        "lora_alpha": facts["alpha"],
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(pairs),
        "rank_pattern": {name: pair.rank for name, pair in sorted(pairs.items()) if pair.rank != facts["rank"]},
        "alpha_pattern": facts.get("alphas", {}),
    }
