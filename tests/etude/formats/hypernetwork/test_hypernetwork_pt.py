from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from etude import formats
from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.files import Draft
from etude.core.pickles import read_pickle
from etude.formats.hypernetwork import hypernetwork_pt
from pipelines.hypernetwork.method.networks import Design, make_networks
from tests.etude.formats.embedding.test_embedding_formats import accepted

WIDTHS = [8, 16]


def hypernetwork(**changes: Any) -> Artifact:
    facts = {"structure": [1.0, 2.0, 1.0], "activation": "linear", "activate_output": False, "layer_norm": False}
    facts |= changes
    design = Design(**{k: facts[k] for k in ("structure", "activation", "activate_output", "layer_norm")})
    tensors = {
        n: torch.randn(p.shape) for n, p in make_networks(changes.pop("widths", WIDTHS), design).named_parameters()
    }
    told = {"name": "<sks>", "initial": "Normal", "step": 300, "base": "models/miniature", "dropout": []}
    return Artifact("hypernetwork", tensors, told | facts)


DESIGNS: list[dict[str, Any]] = [
    {},
    {"structure": [1.0, 1.5, 1.5, 1.0], "activation": "swish"},
    {"activation": "relu", "layer_norm": True, "activate_output": True},
    {"activation": "mish", "layer_norm": True},
    {"structure": [1.0, 2.0, 2.0, 1.0], "activation": "prelu", "activate_output": True, "layer_norm": True},
]
each_design = pytest.mark.parametrize("design", DESIGNS, ids=str)


@each_design
def test_what_is_written_is_read_back_and_told_by_its_keys(design: dict[str, Any], tmp_path: Path) -> None:
    artifact = hypernetwork(**design)
    (path,) = hypernetwork_pt.write(artifact, Draft(tmp_path))
    assert path.name == "sks.pt"
    assert formats.identify(path) == "hypernetwork_pt"
    tensors, facts = hypernetwork_pt.read(path)
    assert sorted(tensors) == sorted(artifact.tensors)
    assert all(torch.equal(tensors[name], artifact.tensors[name]) for name in tensors)
    assert facts == {name: artifact.facts[name] for name in facts}
    assert {"structure", "activation", "activate_output", "layer_norm", "initial", "name", "step"} == set(facts)


def a1111_sequential(width: int, data: dict[Any, Any]) -> nn.Sequential:
    """The Sequential that A1111 builds for a width, written from its description in the notes on methods."""
    structure, kind = data["layer_structure"], data["activation_func"]
    members: list[nn.Module] = []
    for i in range(len(structure) - 1):
        members.append(nn.Linear(int(width * structure[i]), int(width * structure[i + 1])))
        if kind not in ("linear", None) and (i < len(structure) - 2 or data["activate_output"]):
            members.append({"swish": nn.Hardswish, "relu": nn.ReLU, "mish": nn.Mish, "prelu": nn.PReLU}[kind]())
        if data["is_layer_norm"]:
            members.append(nn.LayerNorm(int(width * structure[i + 1])))
        if data["dropout_structure"][i + 1] > 0:
            members.append(nn.Dropout(data["dropout_structure"][i + 1]))
    return nn.Sequential(*members)


@each_design
def test_the_sequentials_of_a1111_load_it_and_compute_the_same(design: dict[str, Any], tmp_path: Path) -> None:
    artifact = hypernetwork(**design, dropout=[0, *[0.3] * (len(design.get("structure", "abc")) - 2), 0])
    data: Any = read_pickle(hypernetwork_pt.write(artifact, Draft(tmp_path))[0])
    told = {k: artifact.facts[k] for k in ("structure", "activation", "activate_output", "layer_norm")}
    networks: Any = make_networks(WIDTHS, Design(**told)).eval()
    networks.load_state_dict(artifact.tensors)
    for width in WIDTHS:
        for side, states in zip("kv", data[width], strict=True):
            sequential = a1111_sequential(width, data)  # in training mode, as ComfyUI leaves it
            sequential.load_state_dict({name.removeprefix("linear."): t for name, t in states.items()})
            x = torch.randn(2, 5, width)
            assert torch.equal(sequential(x), networks[str(width)][side](x))


def test_every_key_of_a1111_is_there_and_the_names_count_all_members(tmp_path: Path) -> None:
    artifact = hypernetwork(activation="relu", layer_norm=True, activate_output=True, dropout=[0, 0.3, 0])
    data: Any = dict(read_pickle(hypernetwork_pt.write(artifact, Draft(tmp_path))[0]))
    assert list(data.pop(8)[0]) == [f"linear.{i}.{kind}" for i in (0, 2, 3, 5) for kind in ("weight", "bias")]
    assert set(data.pop(16)[1]) == {f"linear.{i}.{kind}" for i in (0, 2, 3, 5) for kind in ("weight", "bias")}
    assert data == {
        "step": 300,
        "name": "<sks>",
        "layer_structure": [1.0, 2.0, 1.0],
        "activation_func": "relu",
        "is_layer_norm": True,
        "weight_initialization": "Normal",
        "sd_checkpoint": None,
        "sd_checkpoint_name": "models/miniature",
        "activate_output": True,
        "use_dropout": False,
        "dropout_structure": [0.0, 0.0, 0.0],
        "last_layer_dropout": False,
        "optional_info": "learned with dropout 0, 0.3, 0",
    }


def test_the_file_passes_the_safe_unpickler_of_a1111_and_equal_artifacts_give_equal_bytes(tmp_path: Path) -> None:
    artifact = hypernetwork(activation="swish", layer_norm=True)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        hypernetwork_pt.write(artifact, Draft(tmp_path / folder))
    assert accepted(tmp_path / "a" / "sks.pt")
    assert (tmp_path / "a" / "sks.pt").read_bytes() == (tmp_path / "b" / "sks.pt").read_bytes()


def test_a_file_with_dropouts_between_is_read(tmp_path: Path) -> None:
    """As A1111 writes one with `use_dropout`: its names count the dropout, here at 2."""
    pair = [OrderedDict({f"linear.{i}.{kind}": torch.randn(*shape)
                         for i, out, inner in ((0, 16, 8), (3, 8, 16))
                         for kind, shape in (("weight", (out, inner)), ("bias", (out,)))}) for _ in "kv"]  # fmt: skip
    data = {8: tuple(pair), "layer_structure": [1, 2, 1], "activation_func": "relu", "is_layer_norm": False}
    data |= {"activate_output": False, "use_dropout": True, "last_layer_dropout": True, "step": 5, "name": "other"}
    torch.save(data, tmp_path / "other.pt")
    tensors, facts = hypernetwork_pt.read(tmp_path / "other.pt")
    assert torch.equal(tensors["8.k.1.linear.weight"], pair[0]["linear.3.weight"])
    assert torch.equal(tensors["8.v.0.linear.bias"], pair[1]["linear.0.bias"])
    assert facts["activation"] == "relu"
    assert facts["step"] == 5


@pytest.mark.parametrize(
    ("fields", "dropout"),
    [
        ({}, [0, 0, 0, 0]),
        ({"dropout_structure": [], "use_dropout": False, "last_layer_dropout": True}, [0, 0, 0, 0]),
        ({"use_dropout": True}, [0, 0.3, 0, 0]),
        ({"use_dropout": True, "last_layer_dropout": True}, [0, 0.3, 0.3, 0]),
        ({"dropout_structure": [0, 0.5]}, [0, 0.5, 0, 0]),
        ({"dropout_structure": [0, 0, 1, 0.1], "use_dropout": True}, [0, 0, 1, 0.1]),
    ],
)
def test_layers_are_found_behind_the_dropouts_that_a_file_has(
    fields: dict[str, Any], dropout: list[float], tmp_path: Path
) -> None:
    data: dict[Any, Any] = {"layer_structure": [1, 2, 3, 1], "activation_func": "relu", "is_layer_norm": True}
    data |= {"activate_output": False, "step": 5, "weight_initialization": None}
    pair = [a1111_sequential(8, data | {"dropout_structure": dropout}) for _ in "kv"]
    states = tuple({f"linear.{name}": t for name, t in each.state_dict().items()} for each in pair)
    torch.save(data | fields | {8: states}, tmp_path / "other.pt")
    tensors, facts = hypernetwork_pt.read(tmp_path / "other.pt")
    layers = [member for member in pair[0] if isinstance(member, nn.Linear)]
    assert [torch.equal(tensors[f"8.k.{i}.linear.weight"], layer.weight) for i, layer in enumerate(layers)] == [
        True
    ] * 3
    norms = [member for member in pair[1] if isinstance(member, nn.LayerNorm)]
    assert [tensors[f"8.v.{i}.norm.bias"].numel() for i in range(3)] == [norm.bias.numel() for norm in norms]
    assert (facts["structure"], facts["initial"], facts["name"]) == ([1.0, 2.0, 3.0, 1.0], "Normal", "other")


def test_the_first_files_have_other_names_and_tell_nothing_else(tmp_path: Path) -> None:
    states = {"linear1.weight": torch.randn(16, 8), "linear1.bias": torch.randn(16)}
    states |= {"linear2.weight": torch.randn(8, 16), "linear2.bias": torch.randn(8)}
    torch.save({8: (states, states), "step": 100, "name": "old"}, tmp_path / "old.pt")
    assert formats.identify(tmp_path / "old.pt") == "hypernetwork_pt"
    tensors, facts = hypernetwork_pt.read(tmp_path / "old.pt")
    assert torch.equal(tensors["8.k.1.linear.bias"], states["linear2.bias"])
    assert facts["structure"] == [1.0, 2.0, 1.0]
    assert facts["activation"] == "linear"
    assert facts["activate_output"] is True  # what A1111 takes it to be


def test_half_precision_halves_the_file_and_comes_back_as_it_is(tmp_path: Path) -> None:
    artifact = hypernetwork(widths=[128])
    sizes = {}
    for dtype in (torch.float32, torch.float16):
        told = {name: tensor.to(dtype) for name, tensor in artifact.tensors.items()}
        (path,) = hypernetwork_pt.write(Artifact("hypernetwork", told, artifact.facts), Draft(tmp_path))
        sizes[dtype] = path.stat().st_size
        tensors, _ = hypernetwork_pt.read(path)
        assert all(torch.equal(tensors[name], told[name]) for name in told)
    values = sum(tensor.numel() for tensor in artifact.tensors.values())
    assert 4 * values < sizes[torch.float32] < 4 * values + 8192
    assert 2 * values < sizes[torch.float16] < 2 * values + 8192


def test_the_file_for_sd15_has_the_size_that_the_notes_name(tmp_path: Path) -> None:
    (path,) = hypernetwork_pt.write(hypernetwork(widths=[320, 640, 768, 1280]), Draft(tmp_path))
    assert path.stat().st_size / 2**20 == pytest.approx(83.7, abs=0.05)


def test_a_structure_may_be_as_wide_as_a_thousand_and_as_narrow_as_nothing(tmp_path: Path) -> None:
    data: Any = dict(read_pickle(hypernetwork_pt.write(hypernetwork(), Draft(tmp_path))[0]))
    for structure in ([1, 1000, 1], [0, 0, 0]):
        torch.save(data | {"layer_structure": structure}, tmp_path / "other.pt")
        assert hypernetwork_pt.read(tmp_path / "other.pt")[1]["structure"] == structure


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"name": "x", "string": 1}, "no pairs of networks"),
        ({8: ({},)}, "no pairs of networks"),
        ({8: ({"conv.weight": torch.ones(1)}, {})}, "holds `conv.weight`"),
        ({8: ({"linear.0.weight": torch.ones(2)}, {})}, "lacks 3 tensors, such as `0.linear.bias`"),
        ({8: ({}, {}), "8": ({}, {})}, "the width '8' as text"),
    ],
)
def test_what_is_no_hypernetwork_is_refused(data: dict[Any, Any], said: str, tmp_path: Path) -> None:
    torch.save(data, tmp_path / "x.pt")
    with pytest.raises(FormatError, match=said):
        hypernetwork_pt.read(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("activation_func", None, "there is no such layer"),
        ("is_layer_norm", False, "there is no such layer"),
        ("activate_output", True, "lacks 2 tensors"),
        ("layer_structure", [1.0, 2.0, 2.0, 1.0], "lacks"),
        ("dropout_structure", [0.0, 0.5, 0.0], "there is no such layer"),
        ("activation_func", ["relu"], "has a list for activation"),
        ("activate_output", "no", "has a str for activate_output"),
        ("layer_structure", [1.0, -2.0, 1.0], "no list of numbers"),
        ("layer_structure", {}, "no list of numbers"),
        ("layer_structure", [1.0], "no list of numbers"),
        ("layer_structure", [1.0, True, 1.0], "no list of numbers"),
        ("layer_structure", [1.0, 1000.5, 1.0], "no list of numbers"),
        ("dropout_structure", [0.0, 1.5, 0.0], "has the dropout_structure"),
    ],
)
def test_tensors_at_other_places_than_the_file_says_are_refused(
    field: str, value: Any, said: str, tmp_path: Path
) -> None:
    """A1111 does not load them; read by their order, they would be another network."""
    artifact = hypernetwork(activation="relu", layer_norm=True)
    data: Any = dict(read_pickle(hypernetwork_pt.write(artifact, Draft(tmp_path))[0]))
    torch.save(data | {field: value}, tmp_path / "other.pt")
    with pytest.raises(FormatError, match=said):
        hypernetwork_pt.read(tmp_path / "other.pt")
