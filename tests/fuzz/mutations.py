"""Mutations of files as other programs write them: bits, lengths, names, shapes, dtypes, values, fields, pixels.

`mutate` changes one file by its kind, as a seeded source of random numbers says.
"""

from __future__ import annotations

import base64
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

VALUES: list[Any] = [None, True, False, 0, 1, 2, -1, 1.5, 1e308, 10**400, float("nan"), "", "x", "pissa", [], [1], {}]
VALUES += [{"a": 1}, {"(": 1}, {".*": "x"}, {".*": 2}, {"(a|a)(a|a)": 2}, [[[1]]], "all", "true", "\ud800"]
DTYPES = [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int64, torch.bool, torch.uint8]
DTYPES += [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64]
NAMES = ["", ".", "lora_unet_", "alpha", "lora_A.weight", "lora_unet_input_blocks_99999_1_x", "é\u0000", "x" * 5000]
NAMES += ["bundle_emb.zork.clip_l", "bundle_emb..", "unet..lora_A.weight", "unet.to_out.lora.up.weight"]
SUFFIXES = [".pt", ".bin", ".ckpt", ".safetensors", ".SafeTensors", ".PT", ".png", ".json", ".x", ""]
PLACES: list[Any] = [[], [0], [2**62, 4], [16, -4], ["x"], "F32", "I64", "F8_E4M3", "BOGUS", None]
PLAIN: list[Any] = [None, 3, -1.5, "text", [], {}, True, 10**400]


def mutate(path: Path, dice: random.Random) -> Path:
    """Change one file, and return its path. Other files with the same content (links) stay as they are."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    if dice.random() < 0.03:
        return path.rename(path.with_suffix(dice.choice(SUFFIXES)))
    own = {".safetensors": [change_header, change_metadata, *[change_tensor] * 5], ".json": [change_field] * 12}
    own |= {".png": [change_text] * 4 + [change_pixels] * 2, ".txt": []}
    dice.choice([flip, cut, *own.get(path.suffix, [change_entry] * 6)])(path, dice)
    return path


def flip(path: Path, dice: random.Random) -> None:
    """Flip a few bits, most of them in the first 400 bytes."""
    data = bytearray(path.read_bytes())
    for _ in range(dice.choice([1, 1, 8])):
        place = dice.randrange(len(data) if dice.random() < 0.3 else min(len(data), 400))
        data[place] ^= 1 << dice.randrange(8)
    path.write_bytes(data)


def cut(path: Path, dice: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: dice.randrange(len(data))])


def change_header(path: Path, dice: random.Random) -> None:
    """An entry of a safetensors header with another name, shape, dtype or place, or metadata of another type."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    name = dice.choice(list(header))
    entry = header.pop(name)
    kind = dice.choice(["name", "value", "shape", "dtype", "metadata"])
    if kind == "name":
        header[dice.choice([*NAMES, name[:-1], name.upper(), f"{name}.x"])] = entry
    elif kind == "value":
        header[name] = dice.choice(VALUES)
    else:
        header[name] = entry
        if isinstance(entry, dict) and "shape" in entry:
            entry[{"shape": "shape", "dtype": "dtype"}.get(kind, "data_offsets")] = dice.choice(PLACES)
        else:
            header["__metadata__"] = dice.choice([{"lora_adapter_metadata": dice.choice(["null", "[", "3"])}, *VALUES])
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def change_metadata(path: Path, dice: random.Random) -> None:
    """A field of the metadata, or of a JSON object in it, with another value or name, or none."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    metadata = header.get("__metadata__") or {"format": "pt"}
    objects = [name for name, text in metadata.items() if text.startswith("{")]
    if objects and dice.random() < 0.9:
        name = dice.choice(objects)
        metadata |= {name: json.dumps(_other_field(json.loads(metadata[name]), dice))}
    else:
        metadata = {name: str(value) for name, value in _other_field(metadata, dice).items()}
    text = json.dumps(header | {"__metadata__": metadata}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def change_tensor(path: Path, dice: random.Random) -> None:
    """A tensor of another shape, dtype, name or content, or none, or one more; or two that are exchanged."""
    with safe_open(str(path), framework="pt") as opened:
        metadata, tensors = opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    name = dice.choice(sorted(tensors))
    save_file(_other_tensor(tensors, name, dice), path, metadata)


def _other_tensor(tensors: dict[str, Tensor], name: str, dice: random.Random) -> dict[str, Tensor]:
    """``tensors``, one of them changed in one of several ways."""
    rest, tensor = {other: value for other, value in tensors.items() if other != name}, tensors[name]
    another = dice.choice(sorted(tensors))
    head, _, last = name.rpartition(".")
    made: list[Callable[[], dict[str, Tensor]]] = [
        lambda: rest | {name: torch.ones(_other_shape(tensor, dice))},
        lambda: rest | {name: tensor.to(dice.choice(DTYPES))},
        lambda: rest | {dice.choice([*NAMES[1:], name.upper(), name[:-1], f"x.{name}", f"{name}.x"]): tensor},
        lambda: rest | {name: tensor * dice.choice([float("nan"), float("inf"), 0, -1, 1e30])},
        lambda: rest or {name: tensor[:0]},
        lambda: tensors | {f"{head}.{dice.choice(['alpha', 'scalar', 'bias', 'dora_scale', 'diff'])}": torch.ones(())},
        lambda: tensors | {f"{another.rpartition('.')[0]}x.{last}": tensor.clone()},
        lambda: tensors | {name: tensors[another].clone(), another: tensor.clone()},
        lambda: {other: value.half() if value.is_floating_point() else value for other, value in tensors.items()},
    ]
    return dice.choice(made)()


def _other_shape(tensor: Tensor, dice: random.Random) -> tuple[int, ...]:
    shapes = [(), (0,), (1,), tuple(tensor.shape[::-1]), (1, *tensor.shape), (*tensor.shape, 1), (tensor.numel(),)]
    return dice.choice([*shapes, (2, 2, 2, 2, 2), (3, 5)])


def change_entry(path: Path, dice: random.Random) -> None:
    """An entry of a pickled dictionary, at any depth, with another value or name, or none, or one more."""
    with torch.serialization.safe_globals([torch.nn.ParameterDict, set]):
        data = torch.load(path, weights_only=True)
    torch.save(_other_entry(data, dice), path)


def _other_entry(data: Any, dice: random.Random) -> Any:
    if isinstance(data, list | tuple) and data and dice.random() < 0.9:
        place = dice.randrange(len(data))
        changed = [_other_entry(entry, dice) if number == place else entry for number, entry in enumerate(data)]
        return changed if isinstance(data, list) else tuple(changed)
    if not isinstance(data, dict) or not data or dice.random() < 0.1:
        return _other_value(data, dice)
    key = dice.choice(list(data))
    rest = {name: value for name, value in data.items() if name != key}
    names = [f"{key}x", 7, None, (), dice.choice(list(data)), str(key), str(key).upper()]
    kind = dice.choice(["in", "in", "in", "name", "none", "more"])
    if kind == "in":
        return {name: _other_entry(value, dice) if name == key else value for name, value in data.items()}
    if kind == "name":
        return rest | {dice.choice(names): data[key]}
    return rest if kind == "none" else data | {dice.choice(names): _other_value(data[key], dice)}


def _other_value(value: Any, dice: random.Random) -> Any:
    if not isinstance(value, Tensor) or dice.random() < 0.2:
        return dice.choice([*PLAIN, value, [value], {"state_dict": value}, torch.ones(2), torch.zeros(())])
    others: list[Callable[[], Tensor]] = [
        lambda: torch.ones(_other_shape(value, dice)),
        lambda: value.to(dice.choice(DTYPES)),
        lambda: value * dice.choice([float("nan"), float("inf"), 0, -1, 1e30]),
        lambda: torch.nn.Parameter(value, requires_grad=False),
        lambda: value.to("meta"),
        lambda: value.to_sparse(),
    ]
    return dice.choice(others)()


def change_field(path: Path, dice: random.Random) -> None:
    """A field of a JSON object with another value or name, or the values of two fields exchanged."""
    config = json.loads(path.read_text(encoding="utf-8"))
    text = json.dumps(_other_field(config, dice)) if isinstance(config, dict) and config else "{}"
    whole = dice.choice([text] * 12 + ["null", "[]", "{", "", "\udcff"])
    path.write_bytes(whole.encode(errors="surrogateescape"))


# Fields of configurations of diffusers, transformers and PEFT, with values that they may have.
KNOWN: dict[str, list[Any]] = {
    "prediction_type": ["epsilon", "v_prediction", "sample"],
    "beta_schedule": ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"],
    "timestep_spacing": ["leading", "trailing", "linspace"],
    "rescale_betas_zero_snr": [True],
    "act_fn": ["silu", "gelu", "relu", "mish"],
    "hidden_act": ["gelu", "quick_gelu", "relu"],
    "resnet_time_scale_shift": ["scale_shift"],
    "transformer_layers_per_block": [0, 2, [1, 2, 1, 1]],
    "attention_head_dim": [2, 4, [2, 4, 4, 4]],
    "num_attention_heads": [2, 4, [2, 4, 4, 4]],
    "only_cross_attention": [True, [True, True, False, False]],
    "upcast_attention": [True],
    "scaling_factor": [0.13025, 1, 1.0],
    "shift_factor": [0.1],
    "latents_mean": [[0.0, 0.0, 0.0, 0.0]],
    "use_quant_conv": [False],
    "mid_block_add_attention": [False],
    "norm_eps": [1e-5, 1e-3],
    "layer_norm_eps": [1e-3],
    "norm_num_groups": [1, 2, 4, None],
    "flip_sin_to_cos": [False],
    "freq_shift": [1],
    "center_input_sample": [True],
    "mid_block_scale_factor": [2],
    "dropout": [0.5],
    "attention_dropout": [0.5],
    "eos_token_id": [2, 5],
    "pad_token_id": [0, 1],
    "torch_dtype": ["float16", "bfloat16"],
    "dtype": ["float16", "bfloat16"],
    "quantization_config": [{"quant_method": "bitsandbytes", "load_in_8bit": True}],
    "peft_type": ["LORA", "LOHA", "LOKR", "OFT", "VERA"],
    "use_rslora": [True],
    "use_dora": [True],
    "lora_alpha": [1, 3.5, 16],
    "alpha": [1, 3.5, 16],
    "r": [1, 2, 4, 8],
    "rank_pattern": [{"to_q": 2}, {".*": 4}],
    "alpha_pattern": [{"to_q": 2}, {".*to_[kv]": 9}],
    "target_modules": [["to_q"], "to_q", ".*to_[qk]", "all-linear", ["to_k", "conv1"]],
    "exclude_modules": [["to_q"], ".*to_k"],
    "layers_to_transform": [0, [0], [1]],
    "layers_pattern": ["transformer_blocks", ["attentions"]],
    "bias": ["all", "lora_only"],
    "fan_in_fan_out": [True],
    "modules_to_save": [["conv_in"]],
    "lora_bias": [True],
    "decompose_both": [True],
    "use_effective_conv2d": [True],
    "algo": ["locon", "loha", "lokr", "full", "dylora", "boft", "x"],
    "rs_lora": ["True", True],
    "dora_wd": ["True", "False", True],
    "wd_on_output": ["True", False],
    "bypass_mode": ["True"],
    "rescaled": ["True"],
    "constraint": ["0.01", 1],
    "ss_network_alpha": ["1", "4", "None"],
    "ss_network_module": ["networks.lora", "lycoris.kohya", "networks.oft", "networks.dylora", "x"],
    "lora_decompose": [True, False],
    "lora_decompose_output_axis": [True, False],
}


def _other_field(config: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    name, other = dice.choice(list(config)), dice.choice(list(config))
    kind = dice.random()
    part = name.rpartition(".")[0]  # diffusers' headers have `unet.r` for a field `r`
    if kind < 0.1:
        return {key: value for key, value in config.items() if key != name}
    if kind < 0.2:
        return {key: value for key, value in config.items() if key != name} | {f"{name}x": config[name]}
    if kind < 0.3:
        return config | {name: config[other], other: config[name]}
    if isinstance(config[name], dict) and config[name] and kind < 0.4:
        return config | {name: _other_field(config[name], dice)}
    if kind < 0.7:
        named = f"{part}." if part else ""
        name = dice.choice([key for key in KNOWN if f"{named}{key}" in config] or list(KNOWN))
        name = dice.choice(list(KNOWN)) if dice.random() < 0.3 else name
        return config | {f"{named}{name}": dice.choice(KNOWN[name])}
    return config | {name: dice.choice([*VALUES, _nearly(config[name], dice)])}


def _nearly(value: Any, dice: random.Random) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return dice.choice([value + 1, value * 2, value / 2, -value, str(value), [value]])
    if isinstance(value, str):
        return dice.choice([value.upper(), value[:-1], [value], f" {value}"])
    if isinstance(value, list) and value:
        return dice.choice([value[::-1], value[:-1], [*value, value[-1]], [*value[:-1], None], value[0]])
    return value


def change_text(path: Path, dice: random.Random) -> None:
    """The text of A1111's embedding in a PNG, with another field, or none, or what is no JSON or no base64."""
    with Image.open(path) as image:
        image.load()
        text = str(image.info["sd-ti-embedding"])
    data = json.loads(base64.b64decode(text))
    if dice.random() < 0.5:
        words = data["string_to_param"]
        word = dice.choice(list(words))
        value = words[word]
        rows = value["TORCHTENSOR"]
        others: list[Any] = [rows[0], [rows], [*rows, rows[0][:-1]], [[1e400] * 4], [[True, False]], "x", 3, [], None]
        others += [[["1"]], [[10**400]], rows[:1], rows * 2, [[1, 2]]]
        words[word] = dice.choice([{"TORCHTENSOR": dice.choice(others)}, rows, {"TORCHTENSOR": rows, "x": 1}])
    else:
        data = _other_field(data, dice)
    packed = base64.b64encode(json.dumps(data).encode()).decode()
    choices = [packed] * 10 + [packed[:-5], "", "!" + packed, base64.b64encode(b"[" * 100_000).decode()]
    _save_text(image, path, dice.choice(choices))


def change_pixels(path: Path, dice: random.Random) -> None:
    """Some other pixels, a smaller picture or one of another mode, with or without the text."""
    with Image.open(path) as image:
        image.load()
        text = str(image.info["sd-ti-embedding"]) if dice.random() < 0.2 else ""
    pixels = np.array(image.convert("RGB"))
    source = np.random.default_rng(dice.randrange(2**32))
    for _ in range(dice.choice([1, 1, 20])):
        row, column = source.integers(pixels.shape[0]), source.integers(pixels.shape[1])
        pixels[row, column] ^= source.integers(1, 256, 3).astype(np.uint8)
    changed = Image.fromarray(dice.choice([pixels, pixels[1:], pixels[:, 1:], pixels[:, :-3], pixels[:, ::-1]]))
    _save_text(changed.convert(dice.choice(["RGB", "RGB", "RGBA", "L", "P"])), path, text)


def _save_text(image: Image.Image, path: Path, text: str) -> None:
    information = PngInfo()
    if text:
        information.add_text("sd-ti-embedding", text)
    image.save(path, pnginfo=information)
