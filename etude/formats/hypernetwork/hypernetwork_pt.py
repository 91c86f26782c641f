"""A1111's hypernetwork file ``<name>.pt``, which ComfyUI loads too: a dictionary pickled by torch.

``{768: (k, v), 320: …, "layer_structure": [1.0, 2.0, 1.0], …}``: for each width the states of two Sequentials, with
names ``linear.<i>.weight`` where i counts all members: linear layers, activations, layer norms and dropouts.

Files are written without dropouts, which only training needs: ComfyUI would leave them switched on. ComfyUI reads a
file with layer norm, an activation and no activated output wrongly: it activates the last layer, too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.files import Draft
from etude.core.pickles import read_pickle, write_pickle
from etude.formats.metadata import file_stem

MEMBERS = ("linear", "activation", "norm")  # of a layer, in A1111's order
OLD = {"linear1": "linear.0", "linear2": "linear.1"}  # names of the first files (October 2022)
NAME = re.compile(r"linear\.(\d+)\.(weight|bias)")
KINDS = {"linear": ("weight", "bias"), "norm": ("weight", "bias")}  # of members that always have tensors
LARGEST = 1000  # of numbers in a structure: multiples of a width
AFTER = ("diffusers_embedding",)  # a token of it may be a number


def recognise(keys: Collection[str], metadata: Mapping[str, str]) -> bool:
    """Whether there are widths among the keys."""
    return any(key.isdigit() for key in keys)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors in the common form; facts structure, activation, activate_output, layer_norm, initial, name and step.

    What a file does not say has the default of A1111's loader. Raises FormatError for tensors that are not at the
    places that follow from structure, activation, norm and dropout: then one of these is wrong.
    """
    data = read_pickle(path)
    facts = _facts(path, data)
    places = _places(facts, _dropout(path, data, len(facts["structure"])))
    tensors: dict[str, Tensor] = {}
    for width, pair in sorted(_pairs(path, data).items()):
        for side, states in zip("kv", pair, strict=True):
            tensors |= {f"{width}.{side}.{name}": tensor for name, tensor in _layers(path, states, places).items()}
    return tensors, facts


def _pairs(path: Path, data: Mapping[Any, Any]) -> dict[int, Any]:
    """The two networks of each width; raises FormatError for another form, or for widths as text (A1111 skips them)."""
    action = "give a hypernetwork made by A1111"
    if texts := [key for key in data if isinstance(key, str) and key.isdecimal()]:
        raise FormatError(path, f"has the width {texts[0][:20]!r} as text, which A1111 does not read", action)
    pairs = {key: value for key, value in data.items() if type(key) is int}
    if not pairs or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs.values()):
        raise FormatError(path, "holds no pairs of networks by width", action)
    return pairs


def _facts(path: Path, data: Mapping[Any, Any]) -> dict[str, Any]:
    """The structure and the other facts in the file; raises FormatError for a value of a wrong type."""
    facts: dict[str, Any] = {
        "structure": _numbers(path, "layer_structure", _told(data, "layer_structure", (1, 2, 1))),
        "activation": _told(data, "activation_func", "linear"),
        "activate_output": data.get("activate_output", True),
        "layer_norm": data.get("is_layer_norm", False),
        "initial": str(_told(data, "weight_initialization", "Normal")),
        "name": _told(data, "name", Path(path).stem),
    }
    for name, kind in {"activation": str, "activate_output": bool, "layer_norm": bool}.items():
        if not isinstance(facts[name], kind):
            fault = f"has a {type(facts[name]).__name__} for {name} ({str(facts[name])[:40]!r})"
            raise FormatError(path, fault, "make or fetch it again")
    return facts | ({"step": data["step"]} if isinstance(data.get("step"), int) else {})


def _told(data: Mapping[Any, Any], key: str, default: Any) -> Any:
    return default if data.get(key) is None else data[key]


def _numbers(path: Path, name: str, values: Any, most: int = LARGEST) -> list[float]:
    """A list of numbers from 0 to ``most``; raises FormatError for anything else."""
    right = isinstance(values, list | tuple) and len(values) > 1
    if not right or not all(type(value) in (int, float) and 0 <= value <= most for value in values):
        raise FormatError(path, f"has the {name} {str(values)[:40]!r}, which is no list of numbers", "fetch it again")
    return [float(value) for value in values]


def _dropout(path: Path, data: Mapping[Any, Any], length: int) -> list[float]:
    """The dropout for each place of the structure: given, or 0.3 with A1111's older switch."""
    if given := data.get("dropout_structure"):
        dropout = _numbers(path, "dropout_structure", given, most=1)
        return dropout + [0.0] * (length - len(dropout))
    if not data.get("use_dropout"):
        return [0.0] * length
    return [0.0, *[0.3] * (length - 3), 0.3 if data.get("last_layer_dropout") else 0.0, 0.0]


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


def _layers(path: Path, states: Mapping[str, Tensor], places: Mapping[int, tuple[int, str]]) -> dict[str, Tensor]:
    """The tensors of one Sequential as ``<layer>.<member>.<weight or bias>``.

    Raises FormatError for a tensor at a place where the structure has no such member, as A1111 does.
    """
    layers: dict[str, Tensor] = {}
    for key, tensor in states.items():
        old, _, kind = key.partition(".")
        found = NAME.fullmatch(f"{OLD[old]}.{kind}" if old in OLD else key)
        if not found:
            raise FormatError(path, f"holds `{key}`, which no hypernetwork has", "give a hypernetwork made by A1111")
        layer, member = places.get(int(found[1]), (0, ""))
        if not member:
            fault = f"holds `{key}`, but by its layer_structure, activation, norm and dropout there is no such layer"
            raise FormatError(path, fault, "fetch or make the whole file again")
        layers[f"{layer}.{member}.{found[2]}"] = tensor
    wanted = {f"{layer}.{member}.{kind}" for layer, member in places.values() for kind in KINDS.get(member, ())}
    if missing := sorted(wanted - layers.keys()):
        raise FormatError(
            path, f"lacks {len(missing)} tensors, such as `{missing[0]}`", "fetch or make the whole file again"
        )
    return layers


def _places(facts: Mapping[str, Any], dropout: Sequence[float]) -> dict[int, tuple[int, str]]:
    """Place in A1111's Sequential → layer and member, of members with tensors; dropouts have places, too."""
    members: list[tuple[int, str]] = []
    for number in range(len(facts["structure"]) - 1):
        members += [(number, member) for member in _members(facts, number)]
        members += [(number, "")] if dropout[number + 1] else []
    return dict(enumerate(members))


def _members(facts: Mapping[str, Any], number: int) -> list[str]:
    """The members of a layer, in A1111's order, without its dropout."""
    layers = len(facts["structure"]) - 1
    active = facts["activation"] != "linear" and (facts["activate_output"] or number < layers - 1)
    there = {"linear": True, "activation": active, "norm": facts["layer_norm"]}
    return [member for member in MEMBERS if there[member]]


def _states(tensors: Mapping[str, Tensor], facts: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    """The tensors of one network under the names that they have in A1111's Sequential."""
    states: dict[str, Tensor] = {}
    for place, (number, member) in _places(facts, [0.0] * len(facts["structure"])).items():
        for kind in ("weight", "bias"):
            if (name := f"{prefix}.{number}.{member}.{kind}") in tensors:
                states[f"linear.{place}.{kind}"] = tensors[name].detach().cpu().clone()
    return states
