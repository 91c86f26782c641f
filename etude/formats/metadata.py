"""The header of a file, for other programs: kohya's ``ss_*`` keys and hashes, and ``modelspec.*``.

Times, session ids and hosts are left out: equal artifacts give equal files. Written from the description of the keys
in kohya-ss/sd-scripts (Apache-2.0) and Stability-AI/ModelSpec 1.0.1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from safetensors.torch import save
from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.families import FAMILIES
from etude.core.files import STEM, file_name, is_cut
from etude.core.tensors import unshared

LEGACY = slice(0x100000, 0x110000)  # the bytes of a file that the oldest model hash reads


def marked(artifact: Artifact, mark: str) -> Artifact:
    """The artifact as one checkpoint among others: its files are named ``<name>-<mark>``."""
    return replace(artifact, facts={**artifact.facts, "mark": mark})


def word(facts: Mapping[str, Any]) -> str:
    """The learned word, with the mark of a checkpoint if it has one: A1111's name of an embedding, ``owl-000160``."""
    return f"{facts['name']}-{facts['mark']}" if facts.get("mark") else str(facts["name"])


def file_stem(facts: Mapping[str, Any]) -> str:
    """The name of an artifact's files, without suffix."""
    return file_name(str(facts["name"])) + (f"-{file_name(str(facts['mark']))}" if facts.get("mark") else "")


def word_stem(facts: Mapping[str, Any]) -> str:
    """`file_stem` of an embedding, whose word is its file's name; raises FormatError for a word that would be cut."""
    if is_cut(str(facts["name"])):
        fault = f"is a word of more than {STEM} bytes; its file's name, which prompts use, would be cut"
        raise FormatError(f"{str(facts['name'])[:40]}…", fault, "give a shorter word with `etude convert --name`")
    return file_stem(facts)


def title(facts: Mapping[str, Any]) -> str:
    """The learned word as a file name: the same for all checkpoints."""
    return file_name(str(facts["name"]))


def modelspec(facts: Mapping[str, Any], kind: str) -> dict[str, str]:
    """The ``modelspec.*`` keys for an artifact of ``kind`` "lora" or "textual-inversion"; "": a whole model."""
    prediction = facts.get("prediction", "epsilon")
    side = int(facts.get("resolution", 512))
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": FAMILIES[facts["family"]].architecture[prediction] + (f"/{kind}" if kind else ""),
        "modelspec.implementation": "diffusers",
        "modelspec.title": title(facts),
        "modelspec.resolution": f"{side}x{side}",
        "modelspec.trigger_phrase": str(facts["name"]),
        "modelspec.prediction_type": "v" if prediction == "v_prediction" else "epsilon",
    }


def kohya(facts: Mapping[str, Any], algorithm: str = "") -> dict[str, str]:
    """The ``ss_*`` keys of a LoRA, or of what LyCORIS calls ``algorithm``.

    A1111 recognises the family by ``ss_base_model_version`` and ``ss_v2``.
    """
    params: Mapping[str, Any] = facts.get("params", {})
    training: Mapping[str, Any] = params.get("training", {})
    family = FAMILIES[facts["family"]]
    side = int(facts.get("resolution", 512))
    keys: dict[str, Any] = {
        "ss_base_model_version": family.base_version[facts.get("prediction", "epsilon")],
        "ss_clip_skip": None,
        "ss_learning_rate": training.get("learning_rate"),
        "ss_lr_scheduler": training.get("schedule"),
        "ss_max_grad_norm": training.get("clip"),
        "ss_min_snr_gamma": training.get("min_snr") or None,
        "ss_network_alpha": facts["alpha"],
        "ss_network_args": json.dumps({"algo": algorithm} if algorithm else {}),
        "ss_network_dim": facts["rank"],
        "ss_network_module": "lycoris.kohya" if algorithm else "networks.lora",
        "ss_noise_offset": training.get("noise_offset") or None,
        "ss_num_train_images": facts.get("images"),
        "ss_optimizer": _optimizer(training),
        "ss_output_name": title(facts),
        "ss_resolution": f"({side}, {side})",
        "ss_sd_model_name": facts.get("base"),
        "ss_seed": facts.get("seed"),
        "ss_steps": facts.get("step"),
        "ss_tag_frequency": json.dumps({title(facts): facts["tags"]}, sort_keys=True) if "tags" in facts else None,
        "ss_v2": family.kohya_v2,
    }
    return {key: str(value) for key, value in keys.items()}


def _optimizer(training: Mapping[str, Any]) -> Any:
    """The kind of optimizer; artifacts of earlier versions contain nothing else of it."""
    optimizer = training.get("optimizer")
    return optimizer.get("kind") if isinstance(optimizer, dict) else optimizer


def hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """``sshs_model_hash``, ``sshs_legacy_hash`` and ``modelspec.hash_sha256`` of a file with the ``ss_*`` keys alone.

    The first is the SHA-256 of all bytes after the header; the second, eight digits of that of 64 KiB from 1 MiB on.
    """
    whole = save(unshared(tensors), {key: value for key, value in metadata.items() if key.startswith("ss_")})
    body = hashlib.sha256(whole[8 + int.from_bytes(whole[:8], "little") :]).hexdigest()
    legacy = hashlib.sha256(whole[LEGACY]).hexdigest()[:8]
    return {"sshs_model_hash": body, "sshs_legacy_hash": legacy, "modelspec.hash_sha256": f"0x{body}"}
