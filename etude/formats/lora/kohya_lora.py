"""kohya's LoRA file, which A1111, SD.Next, ComfyUI, Forge, kohya and diffusers load: ``<name>.safetensors``.

``lora_unet_<module>.lora_down.weight``, ``.lora_up.weight`` and ``.alpha``; text encoders ``lora_te_text_model_…``
(SDXL: ``lora_te1_…`` and ``lora_te2_…``, and the modules of the UNet by their LDM names). Variants have LyCORIS' names:
``.hada_w1_a`` and so on, ``.lokr_w1``, ``.dora_scale``. A file that is read may lack alphas (alpha = rank), and may
contain embeddings (``bundle_emb.<word>.…``) and LyCORIS' other kinds: GLoRA, OFT, BOFT, (IA)³, differences of whole
weights, biases and norms. The changes of weights equal those of LyCORIS 4.1.3 within 1e-6 of a change.

How other programs read these files was checked with their own code, on all layers of the real SD 1.5, 2.1 and XL
(350, 416 and 1,052 with the text encoders). LoRA, LoCon and ranks by block: the weights are Étude's within 1e-6 in
A1111 1.10 (2025-11-12), SD.Next (2026-07-23), ComfyUI (2025-10-12), InvokeAI (2026-08-19) and kohya's `networks.lora`
(2026-02-16); one call of the UNet is the same within 1e-5 in diffusers 0.42, which however ignores alphas that differ
between layers, as those of ``blocks`` do (7 % off on a small base). Where programs differ:

- LoHa, LoKr: kohya finds no layer and gives no warning; LyCORIS 4.1.3 applies the scale twice where alpha is not
  the rank, when it merges
- DoRA: A1111 and InvokeAI take the lengths as those of columns, ComfyUI divides by the row's length before the change,
  kohya and diffusers leave the lengths out (diffusers with a warning); SD.Next and LyCORIS compute what Étude does
- SDXL under diffusers' names: A1111 drops the first upsampler without a warning, hence the LDM names
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.families import FAMILIES, PREDICTIONS
from etude.core.files import Draft
from etude.core.ldm_names import table_of
from etude.core.pickles import read_either
from etude.core.tensors import write_tensors
from etude.formats import metadata as headers
from etude.formats.kohya_header import alpha_told, refuse_meaning
from etude.formats.layers import BUNDLE, FACTORS, READ, Place, bundled, named, read_layers
from etude.formats.module_names import escape, escape_ldm, unescape
from etude.formats.peft_config import ADAPTER, read_object

UNET = "lora_unet_"
_OF_TEXT = ("encoder.", "final_layer_norm", "text_projection")  # modules of text encoders, which no UNet has
LYCORIS = "lycoris_"  # LyCORIS' own wrapper: modules of one model, the UNet, without a part's prefix


def recognise(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether every key starts with one of kohya's prefixes, or is of an embedding beside such keys."""
    own = [key for key in keys if not key.startswith(BUNDLE)]
    return bool(own) and all(key.startswith(tuple(_parts())) for key in own)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors in the common form; facts rank, alpha, alphas, and name and family when the header has them."""
    tensors, metadata = read_either(path)
    parts = _parts()
    if read_object(path, ADAPTER, metadata.get(ADAPTER, "{}")):
        fault = f"has kohya's names, and PEFT's configuration in its header (`{ADAPTER}`): both give alphas"
        raise FormatError(path, fault, f"remove `{ADAPTER}` from the header, or give the file to which it belongs")
    alpha_of = partial(alpha_told, path, metadata)
    common, facts = read_layers(path, tensors, lambda key: _place(key, parts), alpha_of)
    refuse_meaning(path, metadata, tensors, common, facts)
    return common, facts | _labels(metadata)


def _place(key: str, parts: Mapping[str, str]) -> Place | None:
    """Layer and factor of a key, or None."""
    escaped, _, suffix = key.partition(".")
    module = _module(escaped, parts)
    if module and suffix in ("alpha", "scalar"):
        return module, suffix
    return (module, READ[suffix]) if module and suffix in READ else None


def _parts() -> dict[str, str]:
    """Prefix → part, in every family."""
    encoders = [encoder for family in FAMILIES.values() for encoder in family.text_encoders]
    return {UNET: "unet", LYCORIS: "unet"} | {encoder.kohya: encoder.part for encoder in encoders}


def _module(escaped: str, parts: Mapping[str, str]) -> str | None:
    for prefix, part in parts.items():
        if escaped.startswith(prefix):
            module = unescape(escaped.removeprefix(prefix)) or ""
            is_text = module.startswith(_OF_TEXT)
            return f"{part}.{module}" if module and is_text == (part != "unet") else None
    return None


def _labels(metadata: Mapping[str, str]) -> dict[str, Any]:
    facts = {}
    if metadata.get("ss_output_name", "None") != "None":
        facts["name"] = metadata["ss_output_name"]
    version = metadata.get("ss_base_model_version", "")
    known = [family.name for family in FAMILIES.values() if version.startswith(family.base_version["epsilon"])]
    if known:
        label = PREDICTIONS.get(metadata.get("modelspec.prediction_type", ""))
        is_v = version.endswith("_v") or label == PREDICTIONS["v"]
        facts |= {"family": known[-1], "prediction": "v_prediction" if is_v else "epsilon"}
    return facts


def write(artifact: Artifact, draft: Draft) -> list[Path]:
    """``<name>.safetensors`` with alphas, ``ss_*`` and ``modelspec.*`` metadata and kohya's hashes."""
    family = FAMILIES[artifact.facts["family"]]
    prefixes = {"unet": UNET} | {encoder.part: f"{encoder.kohya}text_model_" for encoder in family.text_encoders}
    table = table_of(family.blocks) if family.kohya_ldm else {}
    alphas = artifact.facts.get("alphas", {})
    tensors = bundled(artifact)
    for name, tensor in artifact.tensors.items():
        if name.startswith("words."):
            continue
        factor = next(factor for factor in FACTORS if name.endswith(f".{factor}"))
        layer = name.removesuffix(f".{factor}")
        part, _, module = layer.partition(".")
        escaped = prefixes[part] + (escape_ldm(module, table) if part == "unet" else escape(module))
        norm = artifact.tensors.get(f"{layer}.diff", tensor.new_empty(1, 1)).ndim == 1
        for own, value in named(factor, tensor, norm).items():
            tensors[f"{escaped}.{own}"] = value.contiguous()
        # float32 even with fp16 factors: then any alpha is exact enough
        tensors[f"{escaped}.alpha"] = torch.tensor(float(alphas.get(layer, artifact.facts["alpha"])))
    metadata = headers.kohya(artifact.facts, _algorithm(tensors))
    metadata |= headers.hashes(tensors, metadata) | headers.modelspec(artifact.facts, "lora")
    path = draft.path(f"{headers.file_stem(artifact.facts)}.safetensors")
    write_tensors(path, tensors, metadata)
    return [path]


def _algorithm(tensors: Collection[str]) -> str:
    """LyCORIS' name of the kind of these factors; "": plain LoRA, which is kohya's own."""
    kinds = {"hada_": "loha", "lokr_": "lokr", ".a1.": "glora", "oft_": "diag-oft", ".on_input": "ia3"}
    kinds |= {".diff": "full", "_norm": "full", ".dora_scale": "lora"}
    text = " ".join(tensors)
    return next((kind for mark, kind in kinds.items() if mark in text), "")
