"""A1111's hypernetwork file ``<name>.pt``, which ComfyUI loads too: a dictionary pickled by torch.

``{768: (k, v), 320: …, "layer_structure": [1.0, 2.0, 1.0], …}``: for each width the states of two Sequentials, with
names ``linear.<i>.weight`` where i counts all members: linear layers, activations, layer norms and dropouts.

Files are written without their dropouts, which only learning needs: ComfyUI would leave them switched on. A file with
layer norm, an activation and no activated output is read wrongly by ComfyUI: it activates the last layer all the same.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.files import Draft
from etude.core.pickles import read_pickle, write_pickle
from etude.formats.metadata import file_stem

MEMBERS = ("linear", "activation", "norm")  # of a layer, in A1111's order
OLD = {"linear1": "linear.0", "linear2": "linear.1"}  # names of the first files (October 2022)
NAME = re.compile(r"linear\.(\d+)\.(weight|bias)")
AFTER = ("diffusers_embedding",)  # whose token may be a number


def recognise(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether there are widths among the keys."""
    return any(key.isdigit() for key in keys)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors in the common form; facts structure, activation, activate_output, layer_norm, initial, name and step.

    What a file does not tell is what A1111's loader takes it to be.
    """
    data = read_pickle(path)
    widths = [width for width in data if str(width).isdecimal()]
    pairs = {int(width): data[width] for width in widths}
    if len(pairs) < len(widths):
        raise FormatError(path, "has two pairs of networks of one width", "name a hypernetwork made by A1111")
    if not pairs or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs.values()):
        raise FormatError(path, "holds no pairs of networks by width", "name a hypernetwork made by A1111")
    tensors: dict[str, Tensor] = {}
    for width, pair in sorted(pairs.items()):
        for side, states in zip("kv", pair, strict=True):
            tensors |= {f"{width}.{side}.{name}": tensor for name, tensor in _layers(path, states).items()}
    facts: dict[str, Any] = {
        "structure": [float(multiple) for multiple in data.get("layer_structure") or (1, 2, 1)],
        "activation": data.get("activation_func") or "linear",
        "activate_output": bool(data.get("activate_output", True)),
        "layer_norm": bool(data.get("is_layer_norm", False)),
        "initial": data.get("weight_initialization") or "Normal",
        "name": data.get("name") or Path(path).stem,
    }
    return tensors, facts | ({"step": data["step"]} if isinstance(data.get("step"), int) else {})


def write(artifact: Artifact, draft: Draft) -> list[Path]:
    """``<name>.pt`` in the artifact's precision, with every key."""
    facts = artifact.facts
    structure = [float(multiple) for multiple in facts["structure"]]
    widths = sorted({int(name.partition(".")[0]) for name in artifact.tensors})
    data: dict[Any, Any] = {}
    for width in widths:
        data[width] = tuple(_states(artifact.tensors, facts, f"{width}.{side}") for side in "kv")
    dropout = facts.get("dropout")
    data |= {
        "step": facts.get("step", 0),
        "name": str(facts["name"]),
        "layer_structure": structure,
        "activation_func": facts["activation"],
        "is_layer_norm": facts["layer_norm"],
        "weight_initialization": facts["initial"],
        "sd_checkpoint": None,
        "sd_checkpoint_name": facts.get("base"),
        "activate_output": facts["activate_output"],
        "use_dropout": False,
        "dropout_structure": [0.0] * len(structure),
        "last_layer_dropout": False,
        "optional_info": f"learned with dropout {', '.join(map(str, dropout))}" if dropout else None,
    }
    path = draft.path(f"{file_stem(facts)}.pt")
    write_pickle(path, data)
    return [path]


def _layers(path: Path, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one Sequential as ``<layer>.<member>.<weight or bias>``; shapes tell the members apart."""
    members: dict[int, dict[str, Tensor]] = {}
    for key, tensor in states.items():
        old, _, kind = key.partition(".")
        found = NAME.fullmatch(f"{OLD[old]}.{kind}" if old in OLD else key)
        if not found:
            raise FormatError(path, f"holds `{key}`, which no hypernetwork has", "name a hypernetwork made by A1111")
        members.setdefault(int(found[1]), {})[found[2]] = torch.as_tensor(tensor).detach()
    layers: dict[str, Tensor] = {}
    number = -1
    for _, pair in sorted(members.items()):
        weight = pair.get("weight")
        if weight is None or (weight.ndim != 2 and number < 0):
            raise FormatError(path, "holds a network that does not begin with a linear layer", "name a whole file")
        number += weight.ndim == 2
        member = "linear" if weight.ndim == 2 else "norm" if "bias" in pair else "activation"  # a PReLU has no bias
        layers |= {f"{number}.{member}.{kind}": tensor for kind, tensor in pair.items()}
    return layers


def _states(tensors: Mapping[str, Tensor], facts: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    """The tensors of one network under the names that they have in A1111's Sequential."""
    states: dict[str, Tensor] = {}
    layers, place = len(facts["structure"]) - 1, 0
    for number in range(layers):
        active = facts["activation"] != "linear" and (facts["activate_output"] or number < layers - 1)
        there = {"linear": True, "activation": active, "norm": facts["layer_norm"]}
        for member in (member for member in MEMBERS if there[member]):
            for kind in ("weight", "bias"):
                if (name := f"{prefix}.{number}.{member}.{kind}") in tensors:
                    states[f"linear.{place}.{kind}"] = tensors[name].detach().cpu().clone()
            place += 1
    return states
