"""Embeddings, hypernetworks and deltas as other programs write them, and whether Étude reads them as these do.

The number of a file chooses among the forms that its format has.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from etude.core.artifact import Artifact
from etude.core.files import Draft
from etude.formats import load_format
from etude.formats.kinds import open_any
from tests.fuzz import programs

LAYER = "transformer_blocks.0.attn2.to_k.weight"


def embedding(folder: Path, number: int) -> Path:
    """A file of an embedding: kohya's, ComfyUI's, A1111's, diffusers', OneTrainer's."""
    rows, wide = torch.randn(2, 32), torch.randn(2, 48)
    a1111 = {"string_to_token": {"*": 265}, "string_to_param": {"*": rows}, "name": "sks", "step": 3}
    files: list[tuple[str, Any]] = [
        ("sks.safetensors", {"emb_params": rows}),
        ("sks.safetensors", {"clip_l": rows, "clip_g": wide}),
        ("sks.safetensors", {"emp_params": rows}),
        ("learned_embeds.safetensors", {"<sks>": rows}),
        ("learned_embeds.bin", {"<sks>": rows[0]}),
        ("sks.pt", a1111 | {"sd_checkpoint": None, "sd_checkpoint_name": None}),
        ("sks.pt", {"clip_l": rows, "clip_g": wide}),
        (
            "sks.pt",
            {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": torch.nn.ParameterDict({"*": rows})},
        ),
    ]
    name, data = files[number % len(files)]
    if name.endswith(".safetensors"):
        save_file(data, folder / name, {"modelspec.trigger_phrase": "sks"})
    else:
        torch.save(data, folder / name)
    return folder / name


def picture(folder: Path, number: int) -> Path:
    """A1111's picture of an embedding."""
    rows = torch.randn(1 + number % 3, 8, generator=torch.Generator().manual_seed(number))
    made = Artifact("textual_inversion", {"text_encoder": rows}, {"name": "sks", "step": 2, "base": "models/x"})
    (path,) = load_format("embedding_image").write(made, Draft(folder))
    with Image.open(path) as image:
        path.with_suffix(".text").write_text(image.info["sd-ti-embedding"])
    return path


def check_embedding(path: Path) -> None:
    """The rows are those that the file's own program takes."""
    _, opened = open_any(path)
    assert opened.method == "textual_inversion", f"read as {opened.method}"
    with programs.asked():
        own = programs.embedding_rows(path)
    assert own.keys() == opened.tensors.keys(), "other text encoders"
    for part, rows in own.items():
        assert programs.is_near(opened.tensors[part].float(), rows), f"other rows of {part}"


def hypernetwork(folder: Path, number: int) -> Path:
    """A1111's hypernetwork, also with dropouts, which are members of a Sequential too."""
    designs: list[dict[str, Any]] = [
        {"layer_structure": [1.0, 2.0, 1.0], "activation_func": "linear", "is_layer_norm": False},
        {"layer_structure": [1.0, 1.5, 1.5, 1.0], "activation_func": "swish", "is_layer_norm": True},
        {"layer_structure": [1.0, 2.0, 1.0], "activation_func": "prelu", "is_layer_norm": True},
        {"layer_structure": [1.0, 2.0, 2.0, 1.0], "activation_func": "relu", "dropout_structure": [0, 0.3, 0.3, 0]},
    ]
    design = designs[number % len(designs)] | {"activate_output": number % 3 == 0}
    torch.manual_seed(number)
    data: dict[Any, Any] = {}
    for width in (8, 16):
        pair = [programs.a1111_sequential(width, design).state_dict() for _ in "kv"]
        data[width] = tuple({f"linear.{name}": tensor for name, tensor in states.items()} for states in pair)
    torch.save(data | design | {"name": "net", "step": 7, "weight_initialization": "Normal"}, folder / "net.pt")
    return folder / "net.pt"


def check_hypernetwork(path: Path) -> None:
    """The networks compute what A1111's do."""
    from pipelines.hypernetwork.method import _design
    from pipelines.hypernetwork.method.networks import restored

    _, opened = open_any(path)
    assert opened.method == "hypernetwork", f"read as {opened.method}"
    networks: Any = restored(opened.tensors, _design(opened.facts), _Base)
    with programs.asked():
        own = programs.hypernetworks(programs.raw(path))
    assert sorted(own) == sorted(f"{width}.{side}" for width in networks for side in "kv"), "other networks"
    for place, sequential in own.items():
        width, _, side = place.partition(".")
        x = torch.randn(2, int(width), generator=torch.Generator().manual_seed(0))
        assert programs.is_near(networks[width][side](x), sequential(x)), f"{place} computes something else"


class _Base:
    dtype, device = torch.float32, torch.device("cpu")


def delta(folder: Path, number: int) -> Path:
    """Files of Custom Diffusion, of aesthetic gradients and of Étude's own."""
    rows, weight = torch.randn(1, 32), torch.randn(8, 8)
    layer = f"mid_block.attentions.0.{LAYER}"
    files: list[tuple[str, Any]] = [
        (
            "delta.bin",
            {
                "unet": {layer: weight, "x.to_v.weight": {"u": weight, "v": weight}},
                "modifier_token": {"<new>": rows[0]},
            },
        ),
        ("aesthetic.pt", rows),
        (
            "custom.bin",
            {layer.replace("to_k.weight", "processor.to_k_custom_diffusion.weight"): weight, "attn1.processor": {}},
        ),
    ]
    if number % 4 == 3:
        name = f"model.diffusion_model.middle_block.1.{LAYER}"
        other = name.replace("to_k", "to_v")
        entries = {name: "delta_factors", other: "delta"}
        header = {"json": json.dumps({"meta": {"version": "0.2.0"}, "entries": entries})}
        tensors = {f"{name}.US": weight.half(), f"{name}.Vh": weight.T.half().contiguous(), other: weight}
        save_file(tensors, folder / "x.delta.safetensors", header)
        return folder / "x.delta.safetensors"
    name, data = files[number % 4]
    torch.save(data, folder / name)
    return folder / name


def check_delta(path: Path) -> None:
    """The tensors are those of the file, or products of two of them."""
    _, opened = open_any(path)
    with programs.asked():
        is_word = opened.method == "textual_inversion"  # a tensor with a name of its own
        own = programs.embedding_rows(path) if is_word else programs.delta_tensors(path)
    assert own.keys() == opened.tensors.keys(), "other tensors"
    for name, tensor in own.items():
        assert programs.is_near(opened.tensors[name].float(), tensor), f"another {name}"
