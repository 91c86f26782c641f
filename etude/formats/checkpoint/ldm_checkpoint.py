"""The single file ``<name>.safetensors`` in LDM names, which A1111, SD.Next, ComfyUI, Forge, kohya and diffusers load.

UNet below ``model.diffusion_model.``, VAE below ``first_stage_model.``, text encoders below ``cond_stage_model.`` or,
for SDXL, ``conditioner.embedders.``; those of SD 2.x and SDXL's second one in OpenCLIP's names. The configuration,
which the file does not contain, is written beside it, as ``<name>.config/``. A ``.ckpt`` is read as well.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.families import FAMILIES, UNET, VAE, Family
from etude.core.files import Draft, atomic_path
from etude.core.ldm_names import OPEN_CLIP, OPEN_CLIP_ENDS, translate, unet_table, vae_table
from etude.core.model_files import BLOCK, of_part, read_single
from etude.core.tensors import write_tensors
from etude.formats.checkpoints import Frame, complete
from etude.formats.metadata import file_stem, modelspec

AFTER = ("webui_delta",)  # differences of all layers have the names of a whole UNet


def recognise(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether there is a UNet in LDM names."""
    return f"{UNET}input_blocks.0.0.weight" in keys


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The model's tensors in the common form, and the facts family and, if the file has them, prediction and name.

    `etude.base.whole` checks whether it is whole.
    """
    return read_single(path)


def _named(path: Path | str, tensors: Mapping[str, Tensor], table: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors under the names that a table gives them; raises FormatError for those it does not know."""
    names = {name: translate(name, table) for name in tensors}
    strange = sorted(name for name, other in names.items() if other is None)
    if strange:
        fault = f"holds {len(strange)} tensors that no Stable Diffusion has, such as {strange[0]}"
        raise FormatError(path, fault, "give a Stable Diffusion 1.x, 2.x or XL model")
    return {str(names[name]): tensor for name, tensor in tensors.items()}


def _is_attention(name: str) -> bool:
    return ".mid_block.attentions." in name and name.endswith(".weight") and "group_norm" not in name


def _to_open_clip(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors.items():
        match = re.match(r"encoder\.layers\.(\d+)\.(.+)$", name)
        if name in OPEN_CLIP_ENDS:
            yield OPEN_CLIP_ENDS[name], tensor
        elif name == "text_projection.weight":
            yield "text_projection", tensor.T
        elif match and match[2].startswith("self_attn.q_proj."):
            thirds = [tensors[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            yield f"{BLOCK}{match[1]}.attn.in_proj_{name.rpartition('.')[2]}", torch.cat(thirds)
        elif match and (other := translate(match[2], OPEN_CLIP)):
            yield f"{BLOCK}{match[1]}.{other}", tensor


def to_ldm(tensors: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """A whole model in the common form under LDM names."""
    unet, vae = of_part(tensors, "unet"), of_part(tensors, "vae")
    found = {f"{UNET}{name}": tensor for name, tensor in _named("unet", unet, unet_table(unet)).items()}
    square = {n: t[:, :, None, None] if _is_attention(n) and t.ndim == 2 else t for n, t in vae.items()}
    found |= {f"{VAE}{name}": tensor for name, tensor in _named("vae", square, vae_table(vae)).items()}
    for encoder in family.text_encoders:
        text = of_part(tensors, encoder.part)
        # transformers leaves `text_model.` out of these names today; all other programs read them with it.
        clip_l = {f"text_model.{name}": tensor for name, tensor in text.items()}
        named = dict(_to_open_clip(text)) if encoder.open_clip else clip_l
        found |= {f"{family.texts}{encoder.single}{name}": tensor for name, tensor in named.items()}
    return found


def write(artifact: Artifact, draft: Draft, frame: Frame) -> list[Path]:
    """``<name>.safetensors`` in the artifact's precision, with the configuration for loading it in ``<name>.config/``.

    SDXL that predicts v is marked by an empty ``v_pred``, as such models are (``ztsnr``: no signal at the last t).
    """
    facts = artifact.facts
    family = FAMILIES[facts["family"]]
    tensors = to_ldm(complete(artifact, frame), family)
    if family.v_mark and facts.get("prediction") == "v_prediction":
        scheduler = frame.files.get("scheduler/scheduler_config.json", b"").replace(b" ", b"")
        marks = ["v_pred", *(["ztsnr"] if b'"rescale_betas_zero_snr":true' in scheduler else [])]
        tensors |= {mark: torch.zeros(0) for mark in marks}
    stem = file_stem(facts)
    paths = [draft.path(f"{stem}.safetensors")]
    metadata = {"format": "pt"} | modelspec(facts, "") | facts.get("metadata", {})  # such as a merge's recipe
    write_tensors(paths[0], tensors, metadata)
    for name, content in sorted(frame.files.items()):
        paths.append(draft.path(f"{stem}.config", *name.split("/")))
        with atomic_path(paths[-1]) as temporary:
            temporary.write_bytes(content)
    return paths
