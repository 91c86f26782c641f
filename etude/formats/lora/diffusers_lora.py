"""diffusers' LoRA file, ``pytorch_lora_weights.safetensors``: PEFT names below ``unet.``, ``text_encoder.text_model.``.

Alpha is no tensor here but is in the header (``lora_adapter_metadata``), where diffusers ≥ 0.34 reads it. Older
spellings and PEFT's own ``adapter_model.safetensors`` (alpha in ``adapter_config.json`` beside it) are read as well.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.families import learned_parts
from etude.core.files import Draft, read_json, write_tensors
from etude.core.pickles import read_either
from etude.formats import metadata as headers
from etude.formats.pairs import Pair, collect, join, split, unknown

FILE = "pytorch_lora_weights.safetensors"
ADAPTER = "lora_adapter_metadata"  # JSON in the header: "<part>.<field of peft's LoraConfig>"
_HALVES = (
    (re.compile(r"\.processor\.(to_[qkv]|to_out)_lora\.(down|up)\.weight$"), r".\1"),
    (re.compile(r"\.(to_[qkv]|to_out)_lora\.(down|up)\.weight$"), r".\1"),
    (re.compile(r"\.(?:lora|lora_linear_layer)\.(down|up)\.weight$"), ""),
    (re.compile(r"\.lora_(A|B)\.(?:default\.)?weight$"), ""),
    (re.compile(r"\.lora_(magnitude_vector)(?:\.default)?(?:\.weight)?$"), ""),
    (re.compile(r"\.(alpha)$"), ""),
)
_ROLES = {"A": "down", "B": "up", "down": "down", "up": "up", "alpha": "alpha", "magnitude_vector": "magnitude"}
_MAGNITUDE = ".dora_scale"
_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


def recognise(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether every key is one half of a pair, or its alpha, in one of diffusers' and PEFT's spellings."""
    return bool(keys) and all(_place(key) for key in keys) and any("lora" in key for key in keys)


def _place(key: str) -> tuple[str, str] | None:
    """(``<part>.<module>``, "down" | "up" | "alpha") of a key, or None."""
    if key.startswith("lora_"):
        return None
    for pattern, replacement in _HALVES:
        if match := pattern.search(key):
            module = _module(pattern.sub(replacement, key))
            return (module, _ROLES[match[match.lastindex or 1]]) if module else None
    return None


def _module(name: str) -> str | None:
    name = name.removeprefix("base_model.model.")
    if name.startswith(("down_blocks.", "mid_block.", "up_blocks.", "conv_in", "conv_out", "time_embedding.")):
        name = f"unet.{name}"
    if name.startswith(("text_model.", "encoder.layers.")):
        name = f"text_encoder.{name}"
    part, _, module = name.partition(".")
    if part not in learned_parts() or not module:
        return None
    module = module.removeprefix("text_model.")
    head, _, last = module.rpartition(".")
    if part != "unet" and last in _TEXT:
        return f"{part}.{head}.{_TEXT[last]}"
    return f"{part}.{module}.0" if last == "to_out" else f"{part}.{module}"


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors in the common form, and the facts rank, alpha and alphas."""
    path = Path(path)
    tensors, metadata = read_either(path)
    places = {key: _place(key) for key in tensors}
    strange = [key for key, place in places.items() if place is None]
    if strange:
        raise unknown(path, strange)
    found: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, place in places.items():
        if place:
            found[place[0]][place[1]] = tensors[key]
    tensors, facts = join(collect(path, found, _alphas(found, _config(path, metadata))))
    for name, halves in found.items():
        if "magnitude" in halves:
            tensors[name + _MAGNITUDE] = halves["magnitude"].reshape(-1, *[1] * (halves["down"].ndim - 1))
    return tensors, facts


def _config(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What is recorded of peft's LoraConfig, by ``<part>.<field>`` or, for a PEFT folder, by field alone."""
    if ADAPTER in metadata:
        return dict(json.loads(metadata[ADAPTER]))
    beside = path.with_name("adapter_config.json")
    return dict(read_json(beside)) if path.name == "adapter_model.safetensors" and beside.exists() else {}


def _alphas(modules: Collection[str], config: Mapping[str, Any]) -> dict[str, float]:
    alphas = {}
    for name in modules:
        part, _, module = name.partition(".")
        alpha = config.get(f"{part}.lora_alpha", config.get("lora_alpha"))
        pattern = config.get(f"{part}.alpha_pattern", config.get("alpha_pattern")) or {}
        for end, other in pattern.items():
            end = end.removeprefix("^").removeprefix("text_model.")
            if module == end or module.endswith(f".{end}"):
                alpha = other
        if alpha is not None:
            alphas[name] = float(alpha)
    return alphas


def write(artifact: Artifact, draft: Draft) -> list[Path]:
    """``pytorch_lora_weights.safetensors``; the header makes alpha exact in ``load_lora_weights``."""
    magnitudes = {n.removesuffix(_MAGNITUDE): t for n, t in artifact.tensors.items() if n.endswith(_MAGNITUDE)}
    plain = {name: tensor for name, tensor in artifact.tensors.items() if not name.endswith(_MAGNITUDE)}
    pairs = split(plain, artifact.facts)
    tensors: dict[str, Tensor] = {}
    for name, pair in pairs.items():
        part, _, module = name.partition(".")
        full = f"{part}.{module}" if part == "unet" else f"{part}.text_model.{module}"
        tensors[f"{full}.lora_A.weight"] = pair.down.contiguous()
        tensors[f"{full}.lora_B.weight"] = pair.up.contiguous()
        if name in magnitudes:  # as peft has it: [out] or [1, out, 1, 1]
            flat, deep = magnitudes[name].flatten(), pair.down.ndim == 4
            tensors[f"{full}.lora_magnitude_vector"] = flat.view(1, -1, 1, 1) if deep else flat
    adapter = json.dumps(_adapter(pairs, bool(magnitudes)), sort_keys=True)
    path = draft.path(FILE)
    write_tensors(path, tensors, {ADAPTER: adapter, "format": "pt"} | headers.modelspec(artifact.facts, "lora"))
    return [path]


def _adapter(pairs: Mapping[str, Pair], dora: bool) -> dict[str, Any]:
    """Fields of LoraConfig for each part. Modules are named in full, so that no other module is met by a short name."""
    fields: dict[str, Any] = {}
    for part in learned_parts():
        own = {name.removeprefix(f"{part}."): pair for name, pair in pairs.items() if name.startswith(f"{part}.")}
        if own:
            _, facts = join(own)
            fields |= {
                f"{part}.r": facts["rank"],
                f"{part}.lora_alpha": facts["alpha"],
                f"{part}.target_modules": sorted(own),
                f"{part}.rank_pattern": {m: p.rank for m, p in sorted(own.items()) if p.rank != facts["rank"]},
                f"{part}.alpha_pattern": facts.get("alphas", {}),
                **({f"{part}.use_dora": True} if dora else {}),
            }
    return fields
