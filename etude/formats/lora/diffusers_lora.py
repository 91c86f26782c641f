"""LoRA with dotted names: diffusers' ``pytorch_lora_weights.safetensors``, and what PEFT, ComfyUI and OneTrainer write.

diffusers has PEFT's names below ``unet.`` and ``text_encoder.text_model.``; alpha is in the header
(``lora_adapter_metadata``), where diffusers ≥ 0.34 reads it. Files are written with alpha = rank, so that programs
that do not know the header apply them rightly. Of a text encoder's DoRA, diffusers 0.42 with transformers 5.23 loses
the lengths, with a warning.

Also read: older spellings of diffusers; PEFT's ``adapter_model``, with ``adapter_config.json`` beside it; ComfyUI's
``diffusion_model.`` and ``text_encoders.clip_l.transformer.``; OneTrainer's ``lora_unet.`` and, with the names of the
LDM UNet, ``unet.`` and ``clip_l.``, or no prefix.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.families import learned_parts, text_parts
from etude.core.files import Draft
from etude.core.pickles import read_either
from etude.core.tensors import write_tensors
from etude.core.weights import refuse_infinite
from etude.formats import metadata as headers
from etude.formats.kohya_header import alpha_told, refuse_meaning
from etude.formats.layers import READ, Place, read_layers, recognises, scaled_finite
from etude.formats.module_names import LDM, from_dotted
from etude.formats.pairs import Pair, join, scaled, split
from etude.formats.peft_config import ADAPTER, Adapter, parse, read_object

FILE = "pytorch_lora_weights.safetensors"
CONFIG = "adapter_config.json"
PREFIX = "base_model.model."  # of PEFT's own files
_WHOLE = ("weight", "on_input", "rescale")  # only in LyCORIS' files: after a dot, they could be of any model
_SUFFIXES = "|".join(re.escape(name) for name in [*READ, "alpha", "scalar"] if name not in _WHOLE)
_HALVES = (
    (re.compile(r"\.processor\.(to_[qkv]|to_out)_lora\.(down|up)\.weight$"), r".\1"),
    (re.compile(r"\.(to_[qkv]|to_out)_lora\.(down|up)\.weight$"), r".\1"),
    (re.compile(r"\.(?:lora|lora_linear_layer)\.(down|up)\.weight$"), ""),
    (re.compile(r"\.lora_(A|B)\.(?:default\.)?weight$"), ""),
    (re.compile(r"\.lora_B\.(?:default\.)?(bias)$"), ""),
    (re.compile(r"\.lora_(magnitude_vector)(?:\.default)?(?:\.weight)?$"), ""),
    (re.compile(rf"\.({_SUFFIXES})$"), ""),
)
_ROLES = {"A": "lora_A.weight", "B": "lora_B.weight", "down": "lora_A.weight", "up": "lora_B.weight"}
_ROLES |= {"magnitude_vector": "magnitude", "bias": "bias", "alpha": "alpha", "scalar": "scalar"} | READ
_BARE = ("down_blocks.", "mid_block.", "up_blocks.", "conv_in", "conv_out", "conv_norm_out", "time_embedding.")
_MAGNITUDE = ".dora_scale"
_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


def recognise(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether every key is a factor of a layer, or its alpha, in one of the spellings with dots."""
    return recognises(keys, _place)


def _place(key: str) -> Place | None:
    """Layer and factor of a key, or None."""
    for pattern, replacement in _HALVES:
        if match := pattern.search(key):
            module = _module(pattern.sub(replacement, key))
            return (module, _ROLES[match[match.lastindex or 1]]) if module else None
    return None


def _module(name: str) -> str | None:
    name = name.removeprefix(PREFIX)
    if name.startswith((*_BARE, "add_embedding.", *LDM)):
        name = f"unet.{name}"
    if name.startswith(("text_model.", "encoder.layers.")):
        name = f"text_encoder.{name}"
    part, module = from_dotted(name) or ("", "")
    if not module:
        return None
    head, _, last = module.rpartition(".")
    if part != "unet" and last in _TEXT:
        return f"{part}.{head}.{_TEXT[last]}"
    return f"{part}.{module}.0" if last == "to_out" else f"{part}.{module}"


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors in the common form, and the facts rank, alpha and alphas; words if there are embeddings in it."""
    path = Path(path)
    tensors, metadata = read_either(path)
    places = {key: found for key in tensors if (found := _place(key))}
    adapters = _adapters(path, places, metadata)

    def alpha_of(layer: str, rank: int) -> float:
        part, _, module = layer.partition(".")
        if part in adapters:
            return adapters[part].alpha_of(module, rank)
        return alpha_told(path, metadata, layer, rank)

    common, facts = read_layers(path, tensors, places.get, alpha_of)
    refuse_meaning(path, metadata, tensors, common, facts)
    return _scaled(path, common, adapters), facts


def _adapters(path: Path, places: Mapping[str, Place], metadata: Mapping[str, str]) -> dict[str, Adapter]:
    """PEFT's configuration of the layers, by part; raises FormatError if it is missing, or does not fit."""
    origin, fields = _fields(path, places, metadata)
    adapters, parts = {}, learned_parts()
    shared = {name: value for name, value in fields.items() if name.partition(".")[0] not in parts}
    for part in parts:
        own = shared | {name.removeprefix(f"{part}."): fields[name] for name in fields if name.startswith(f"{part}.")}
        if not own:
            continue
        adapters[part] = parse(origin, own, is_text=part in text_parts())
        found = [place for place in places.values() if place[0].startswith(f"{part}.")]
        lengths = {layer for layer, factor in found if factor == "magnitude"}
        layers = {layer for layer, _ in found}
        adapters[part].refuse_others(sorted((layer.removeprefix(f"{part}."), factor) for layer, factor in found))
        if lengths != (layers if adapters[part].decomposed else set()):
            fault = (
                f"says `use_dora: {adapters[part].decomposed}` of {part}, but {len(lengths)} of {len(layers)} layers"
            )
            action = "fetch the file again, with the configuration that belongs to it"
            raise FormatError(path, f"{fault} have a lora_magnitude_vector", action)
        if any(factor == "alpha" for _, factor in found):
            fault = f"has alphas of {part} twice: as tensors and in the configuration"
            raise FormatError(path, fault, "remove one of the two")
    return adapters


def _fields(path: Path, places: Mapping[str, Place], metadata: Mapping[str, str]) -> tuple[Path, dict[str, Any]]:
    """The file with PEFT's fields, and these: from the header, by ``<part>.<field>``, or from the file beside."""
    fields = _flat(path, read_object(path, ADAPTER, metadata.get(ADAPTER, "{}")))
    if path.stem != "adapter_model" and not any(key.startswith(PREFIX) for key in places):
        return path, fields
    beside = path.with_name(CONFIG)
    if fields:
        fault = f"has PEFT's configuration twice: in its header (`{ADAPTER}`), and in a {CONFIG} beside it"
        if beside.is_file():
            raise FormatError(path, fault, "remove one of the two")
        return path, fields
    if not beside.is_file():
        raise FormatError(path, f"has no {CONFIG} beside it, which holds PEFT's alpha", "fetch that file as well")
    try:
        fields = read_object(beside, CONFIG, beside.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise FormatError(beside, "is no text in UTF-8", "fetch it again") from None
    if fields.get("peft_type") is None:
        raise FormatError(beside, "has no `peft_type`, so it is no configuration of PEFT", "fetch it again")
    return beside, fields


def _flat(path: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields by ``<part>.<field>``, also from a table by part; raises FormatError for two values of one."""
    flat = {name: value for name, value in fields.items() if name not in learned_parts()}
    for part in (part for part in learned_parts() if part in fields):
        if not isinstance(fields[part], Mapping | None):
            fault = f"has a {type(fields[part]).__name__} in `{part}` of `{ADAPTER}`, not a JSON object"
            raise FormatError(path, fault, "fetch or make it again")
        for name, value in (fields[part] or {}).items():
            if flat.get(f"{part}.{name}", value) != value:
                raise FormatError(path, f"has `{part}.{name}` twice in `{ADAPTER}`", "remove one of the two")
            flat[f"{part}.{name}"] = value
    return flat


def _scaled(path: Path, common: dict[str, Tensor], adapters: Mapping[str, Adapter]) -> dict[str, Tensor]:
    """Scale LoKrs of two whole factors as PEFT does: in the common form they have no rank, and so no scale."""
    for name in [name for name in common if name.endswith(".lokr_w1")]:
        layer = name.removesuffix(".lokr_w1")
        part, _, module = layer.partition(".")
        if part in adapters and f"{layer}.lokr_w2" in common:
            rank = adapters[part].rank_of(module)
            if 2 * rank < max(common[f"{layer}.lokr_w2"].shape[:2]):  # PEFT would make two factors
                fault = f"gives `{module}` rank {rank}, at which PEFT splits `lokr_w2`, but here it is not split"
                action = "fetch the file again, with the configuration that belongs to it"
                raise FormatError(adapters[part].path, fault, action)
            number = adapters[part].alpha_of(module, rank) / rank
            common[name] = scaled_finite(path, name, common[name], number)
    return common


def write(artifact: Artifact, draft: Draft) -> list[Path]:
    """``pytorch_lora_weights.safetensors``, whose B contain the scale: alpha = rank, also in the header.

    Raises FormatError for a kind of factors that this format cannot hold.
    """
    magnitudes = {n.removesuffix(_MAGNITUDE): t for n, t in artifact.tensors.items() if n.endswith(_MAGNITUDE)}
    plain = {name: tensor for name, tensor in artifact.tensors.items() if not name.endswith(_MAGNITUDE)}
    pairs = split(plain, artifact.facts)
    tensors: dict[str, Tensor] = {}
    for name, pair in pairs.items():
        part, _, module = name.partition(".")
        full = f"{part}.{module}" if part == "unet" else f"{part}.text_model.{module}"
        tensors[f"{full}.lora_A.weight"] = pair.down.contiguous()
        folded = scaled(pair.up, pair.alpha / pair.rank).contiguous()
        tensors[f"{full}.lora_B.weight"] = refuse_infinite(FILE, f"`{name}.lora_B`, with alpha in it,", folded)
        if name in magnitudes:
            tensors[f"{full}.lora_magnitude_vector"] = _magnitude(artifact, name, magnitudes[name], pair)
    adapter = json.dumps(_adapter(artifact, pairs, magnitudes), sort_keys=True)
    path = draft.path(FILE)
    write_tensors(path, tensors, {ADAPTER: adapter, "format": "pt"} | headers.modelspec(artifact.facts, "lora"))
    return [path]


def _magnitude(artifact: Artifact, name: str, lengths: Tensor, pair: Pair) -> Tensor:
    """DoRA's lengths of rows as peft has them, [out] or [1, out, 1, 1]; raises FormatError for those of columns."""
    if lengths.shape[0] != pair.up.shape[0]:
        fault = f"has in `{name}{_MAGNITUDE}` one number for each input; this format has one for each output"
        raise FormatError(str(artifact.facts.get("name", "LoRA")), fault, "write it as kohya_lora")
    flat = lengths.flatten()
    return flat.view(1, -1, 1, 1) if pair.down.ndim == 4 else flat


def _adapter(artifact: Artifact, pairs: Mapping[str, Pair], magnitudes: Collection[str]) -> dict[str, Any]:
    """Fields of LoraConfig for each part. Modules have full names: a short name could match others.

    Raises FormatError if only some layers of a part are DoRA's: `use_dora` is for all of them.
    """
    fields: dict[str, Any] = {}
    for part in learned_parts():
        own = {name.removeprefix(f"{part}."): pair for name, pair in pairs.items() if name.startswith(f"{part}.")}
        if own:
            _, facts = join(own)
            dora = [name for name in own if f"{part}.{name}" in magnitudes]
            if 0 < len(dora) < len(own):
                fault = f"is DoRA in {len(dora)} of {len(own)} layers of {part}, but this format needs all or none"
                raise FormatError(str(artifact.facts.get("name", "LoRA")), fault, "write it as kohya_lora")
            others = {name: pair.rank for name, pair in sorted(own.items()) if pair.rank != facts["rank"]}
            fields |= {
                f"{part}.r": facts["rank"],
                f"{part}.lora_alpha": facts["rank"],
                f"{part}.target_modules": sorted(own),
                f"{part}.rank_pattern": others,
                f"{part}.alpha_pattern": others,
                **({f"{part}.use_dora": True} if dora else {}),
            }
    return fields
