"""A WD14 model in small: the file layout and the inputs of SmilingWolf's, with a table as long as that of version 1.4.

The network is ONNX's wire format, written here: pixels are pooled, and one layer with a sigmoid gives the scores.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

SIDE, CELLS = 32, 4  # pixels of a side, and how many pooled ones
RATINGS = ("general", "sensitive", "questionable", "explicit")
ODD = ("1girl", "^_^", "||_||", "o_o", "d_b", r"\m/", "blue_eyes", "hair_ornament", "smile_(style)", "0_0", ":d")
CHARACTERS = ("hatsune_miku", "saber_(fate)", "mash_kyrielight_(dangerous_beast)_(fate)", "rem_(re:zero)")
GENERAL, NAMED = 6_947, 2_132  # rows of the table, 9,083 with the ratings


def build_wd14(folder: Path, batch: int | str = "N", side: int = SIDE, last: str = "Sigmoid") -> Path:
    """The folder of a model with random weights."""
    folder.mkdir()
    rows = [(name, 9) for name in RATINGS] + [(name, 0) for name in _named(ODD, "tag", GENERAL)]
    rows += [(name, 4) for name in _named(CHARACTERS, "someone", NAMED)]
    with open(folder / "selected_tags.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("tag_id", "name", "category", "count"))
        writer.writerows((number, *row, 1) for number, row in enumerate(rows))
    random = np.random.default_rng(14)
    weights = random.normal(0, 0.0015, (3 * CELLS * CELLS, len(rows))).astype(np.float32)
    bias = random.normal(-5, 1, len(rows)).astype(np.float32)
    (folder / "model.onnx").write_bytes(_model(weights, bias, batch, side, last))
    return folder


def build_timm(folder: Path, model: Path) -> Path:
    """The folder of a vision transformer in timm's form, with the table of ``model``."""
    import timm
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    table = (model / "selected_tags.csv").read_bytes()
    (folder / "selected_tags.csv").write_bytes(table)
    count = len(table.splitlines()) - 1
    sizes = {"img_size": SIDE, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    shape = {**sizes, "class_token": False, "global_pool": "avg"}
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", num_classes=count, **shape)
    with torch.no_grad():
        network.head.weight.normal_(0, 0.5)
        network.head.bias.fill_(-3)
    save_file(network.state_dict(), folder / "model.safetensors")
    half = [0.5, 0.5, 0.5]
    seen = {"input_size": [3, SIDE, SIDE], "interpolation": "bicubic", "crop_pct": 1.0, "mean": half, "std": half}
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": count, "model_args": shape}
    config["pretrained_cfg"] = {**seen, "num_classes": count, "classifier": "head", "first_conv": "patch_embed.proj"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _named(first: Sequence[str], word: str, count: int) -> list[str]:
    return [*first, *(f"{word}_{number}" for number in range(count - len(first)))]


def _model(weights: np.ndarray, bias: np.ndarray, batch: int | str, side: int, last: str) -> bytes:
    step = side // CELLS
    nodes = [
        _node("Transpose", ["input_1:0"], "planes", perm=[0, 3, 1, 2]),
        _node("AveragePool", ["planes"], "pooled", kernel_shape=[step, step], strides=[step, step]),
        _node("Flatten", ["pooled"], "flat"),
        _node("Gemm", ["flat", "weights", "bias"], "logits"),
        _node(last, ["logits"], "predictions_sigmoid"),
    ]
    tensors = [_tensor("weights", weights), _tensor("bias", bias)]
    graph = b"".join(_field(1, node) for node in nodes) + _field(2, b"wd14")
    graph += b"".join(_field(5, tensor) for tensor in tensors)
    graph += _field(11, _value("input_1:0", [batch, side, side, 3]))
    graph += _field(12, _value("predictions_sigmoid", [batch, len(bias)]))
    return _field(1, 8) + _field(8, _field(1, b"") + _field(2, 13)) + _field(7, graph)  # IR 8, opset 13


def _node(kind: str, taken: Sequence[str], given: str, **settings: Sequence[int]) -> bytes:
    node = b"".join(_field(1, name.encode()) for name in taken) + _field(2, given.encode()) + _field(4, kind.encode())
    for name, numbers in settings.items():
        values = b"".join(_field(8, number) for number in numbers)
        node += _field(5, _field(1, name.encode()) + values + _field(20, 7))  # 7: integers
    return node


def _tensor(name: str, values: np.ndarray) -> bytes:
    dims = b"".join(_field(1, size) for size in values.shape)
    return dims + _field(2, 1) + _field(8, name.encode()) + _field(9, values.tobytes())  # 1: float32


def _value(name: str, shape: Sequence[int | str]) -> bytes:
    dims = [_field(1, size) if isinstance(size, int) else _field(2, size.encode()) for size in shape]
    tensor = _field(1, 1) + _field(2, b"".join(_field(1, dim) for dim in dims))
    return _field(1, name.encode()) + _field(2, _field(1, tensor))


def _field(number: int, value: int | bytes) -> bytes:
    """A field of protobuf: a number, or bytes behind their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    data = b""
    while value > 127:
        data, value = data + bytes([value & 127 | 128]), value >> 7
    return data + bytes([value])
