"""kohya's LoRA file, which A1111, SD.Next, ComfyUI, Forge, kohya and diffusers load: ``<name>.safetensors``.

``lora_unet_<module>.lora_down.weight``, ``.lora_up.weight`` and ``.alpha``; text encoders ``lora_te_text_model_…``
(SDXL: ``lora_te1_…`` and ``lora_te2_…``, and the modules of the UNet by their LDM names). Its kin have LyCORIS' names:
``.hada_w1_a`` and so on, ``.lokr_w1``, ``.dora_scale``. What is read may lack alphas (alpha = rank).

What other programs make of these files was checked with their own code, on all layers of the true SD 1.5, 2.1 and XL
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

from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.families import FAMILIES
from etude.core.files import Draft, write_tensors
from etude.core.pickles import read_either
from etude.formats import metadata as headers
from etude.formats.ldm_names import table_of
from etude.formats.module_names import escape, escape_ldm, unescape
from etude.formats.pairs import ranks_and_alphas, unknown

UNET = "lora_unet_"
LYCORIS = "lycoris_"  # LyCORIS' own wrapper: modules of one model, the UNet, called by their names alone
WRITTEN = {  # factor in the common form → in the file
    "lora_A.weight": "lora_down.weight",
    "lora_B.weight": "lora_up.weight",
    "lora_mid.weight": "lora_mid.weight",
    **{f"hada_{name}": f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f"lokr_{name}": f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
    "dora_scale": "dora_scale",
    "diff": "diff",
}
READ = {other: own for own, other in WRITTEN.items()} | {name: name for name in WRITTEN}
RANKED = ("lora_A.weight", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")  # their first size is the rank
WHOLE_SETS = (  # the factors of a layer, one of these at least
    ("lora_A.weight", "lora_B.weight"),
    ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    *(
        (*one, *other)
        for one in (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b"))
        for other in (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"))
    ),
    ("diff",),
)


def recognise(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether every key starts with one of kohya's prefixes."""
    prefixes = tuple(_parts())
    return bool(keys) and all(key.startswith(prefixes) for key in keys)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors in the common form; facts rank, alpha, alphas, and name and family when the header has them."""
    tensors, metadata = read_either(path)
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    alphas, strange, parts = {}, [], _parts()
    for key, tensor in tensors.items():
        escaped, _, suffix = key.partition(".")
        module = _module(escaped, parts)
        if module and suffix == "alpha":
            alphas[module] = float(tensor)
        elif module and suffix in READ:
            layers[module][READ[suffix]] = tensor
        else:
            strange.append(key)
    if strange:
        raise unknown(path, strange)
    _check(path, layers)
    pairs = {}
    for name, factors in layers.items():
        rank = _rank(factors)
        pairs[name] = rank, alphas.get(name, float(rank))
    common = {}
    for name, factors in sorted(layers.items()):
        for factor, tensor in sorted(factors.items()):
            common[f"{name}.{factor}"] = tensor
    return common, ranks_and_alphas(pairs) | _told(metadata)


def _rank(factors: Mapping[str, Tensor]) -> int:
    """The rank of a layer; 1 where no factor has one, as of whole differences."""
    return next((len(factors[name]) for name in RANKED if name in factors), 1)


def _check(path: Path, layers: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Every layer has all factors of one kind, and the halves of a pair fit; raises FormatError."""
    if not layers:
        raise FormatError(path, "holds no LoRA", "name another file")
    for name, factors in layers.items():
        if not any(factors.keys() >= set(whole) for whole in WHOLE_SETS):
            begun = max(WHOLE_SETS, key=lambda whole: (len(factors.keys() & set(whole)), -len(whole)))
            missing = ", ".join(WRITTEN[factor] for factor in begun if factor not in factors)
            raise FormatError(path, f"`{name}` has no {missing}", "fetch the file again")
        down, up, core = (factors.get(factor) for factor in ("lora_A.weight", "lora_B.weight", "lora_mid.weight"))
        if down is not None and up is not None and core is None and down.shape[:1] != up.shape[1:2]:
            fault = f"`{name}` has halves {list(down.shape)} and {list(up.shape)}, which do not fit"
            raise FormatError(path, fault, "fetch the file again")


def _parts() -> dict[str, str]:
    """Prefix → part, in every family."""
    encoders = [encoder for family in FAMILIES.values() for encoder in family.text_encoders]
    return {UNET: "unet", LYCORIS: "unet"} | {encoder.kohya: encoder.part for encoder in encoders}


def _module(escaped: str, parts: Mapping[str, str]) -> str | None:
    for prefix, part in parts.items():
        if escaped.startswith(prefix):
            module = unescape(escaped.removeprefix(prefix))
            return f"{part}.{module}" if module else None
    return None


def _told(metadata: Mapping[str, str]) -> dict[str, Any]:
    facts = {}
    if metadata.get("ss_output_name", "None") != "None":
        facts["name"] = metadata["ss_output_name"]
    version = metadata.get("ss_base_model_version", "")
    known = [family.name for family in FAMILIES.values() if version.startswith(family.base_version["epsilon"])]
    if known:
        facts |= {"family": known[-1], "prediction": "v_prediction" if version.endswith("_v") else "epsilon"}
    return facts


def write(artifact: Artifact, draft: Draft) -> list[Path]:
    """``<name>.safetensors`` with alphas, ``ss_*`` and ``modelspec.*`` metadata and kohya's hashes."""
    family = FAMILIES[artifact.facts["family"]]
    prefixes = {"unet": UNET} | {encoder.part: f"{encoder.kohya}text_model_" for encoder in family.text_encoders}
    table = table_of(family.blocks) if family.kohya_ldm else {}
    alphas = artifact.facts.get("alphas", {})
    tensors = {}
    for name, tensor in artifact.tensors.items():
        factor = next(factor for factor in WRITTEN if name.endswith(f".{factor}"))
        layer = name.removesuffix(f".{factor}")
        part, _, module = layer.partition(".")
        escaped = prefixes[part] + (escape_ldm(module, table) if part == "unet" else escape(module))
        tensors[f"{escaped}.{WRITTEN[factor]}"] = tensor.contiguous()
        # float32 even beside fp16: any alpha is exact enough
        tensors[f"{escaped}.alpha"] = torch.tensor(float(alphas.get(layer, artifact.facts["alpha"])))
    metadata = headers.kohya(artifact.facts, _algorithm(tensors))
    metadata |= headers.hashes(tensors, metadata) | headers.modelspec(artifact.facts, "lora")
    path = draft.path(f"{headers.file_stem(artifact.facts)}.safetensors")
    write_tensors(path, tensors, metadata)
    return [path]


def _algorithm(tensors: Collection[str]) -> str:
    """What LyCORIS calls the kind of these factors; "": plain LoRA, which is kohya's own."""
    kinds = {"hada_": "loha", "lokr_": "lokr", ".diff": "full", ".dora_scale": "lora"}
    text = " ".join(tensors)
    return next((kind for mark, kind in kinds.items() if mark in text), "")
