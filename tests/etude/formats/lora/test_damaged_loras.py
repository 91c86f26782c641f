"""Damaged and odd LoRA files: each is read, or refused in one line; none ends in another error.

A few hundred mutations of true files are tried, the same ones each time.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import EtudeError
from etude.core.factors import by_layer
from etude.core.files import Draft
from etude.diffusion.factors import bias_change, change
from etude.formats.kinds import open_any, same_kind
from etude.formats.layers import READ
from etude.formats.lora import diffusers_lora, kohya_lora, peft_lora

COUNT = 400
STEM = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_q"
DOTTED = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
KINDS: dict[str, dict[str, tuple[int, ...]]] = {  # suffixes and shapes, of a layer [16, 16]
    "lora": {"lora_down.weight": (4, 16), "lora_up.weight": (16, 4), "alpha": ()},
    "dora": {"lora_down.weight": (4, 16), "lora_up.weight": (16, 4), "alpha": (), "dora_scale": (16, 1)},
    "loha": {"hada_w1_a": (16, 4), "hada_w1_b": (4, 16), "hada_w2_a": (16, 4), "hada_w2_b": (4, 16), "scalar": ()},
    "lokr": {"lokr_w1": (4, 4), "lokr_w2_a": (4, 2), "lokr_w2_b": (2, 4), "alpha": ()},
    "full": {"diff": (16, 16), "diff_b": (16,)},
    "glora": {"a1.weight": (16, 4), "a2.weight": (4, 16), "b1.weight": (16, 4), "b2.weight": (4, 16), "alpha": ()},
    "oft": {"oft_blocks": (4, 4, 4), "rescale": (16, 1), "alpha": ()},
    "boft": {"oft_blocks": (2, 4, 4, 4), "alpha": ()},
    "ia3": {"weight": (16,), "on_input": ()},
}
HEADER = {
    "unet.r": 4,
    "unet.lora_alpha": 4,
    "unet.use_rslora": True,
    "unet.target_modules": ["to_q"],
    "unet.alpha_pattern": {".*to_q": 8},
    "unet.rank_pattern": {},
    "unet.init_lora_weights": True,
    "unet.bias": "none",
}
VALUES: list[Any] = [None, True, False, 0, -1, 1e308, 10**400, float("nan"), "", "x", "pissa", [], [1], {}, {"a": 1}]
VALUES += [{"(": 1}, {".*": "x"}, {"(a|a)(a|a)": 2}, [[[1]]], "all"]
DTYPES = [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn]
DTYPES += [torch.uint8, torch.float8_e5m2]
NAMES = ["", ".", "lora_unet_", "alpha", "lora_A.weight", "lora_unet_input_blocks_99999_1_x", "é\u0000", "x" * 5000]
NAMES += ["bundle_emb.zork.clip_l", "bundle_emb..", "unet..lora_A.weight", "unet.to_out.lora.up.weight"]


def tensors_of(kind: str, seed: int) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(seed)
    tensors = {f"{STEM}.{suffix}": torch.randn(shape, generator=source) for suffix, shape in KINDS[kind].items()}
    if kind == "ia3":
        tensors[f"{STEM}.on_input"] = torch.tensor(1)
    return tensors


def true_file(folder: Path, number: int) -> Path:
    """A file that some program writes: kohya's names, dotted ones with a header, or a folder of PEFT."""
    form = ("kohya", "kohya", "dotted", "peft")[number % 4]
    if form == "kohya":
        tensors = tensors_of(list(KINDS)[number // 4 % len(KINDS)], number)
        tensors["bundle_emb.zork.string_to_param.*"] = torch.ones(2, 32)
        header = {"ss_network_args": json.dumps({"wd_on_output": "True"}), "ss_output_name": "x"}
        save_file(tensors, folder / "x.safetensors", header)
        return folder / "x.safetensors"
    halves = {"lora_A.weight": torch.randn(4, 16), "lora_B.weight": torch.randn(16, 4)}
    if form == "dotted":
        named = {f"{DOTTED}.{name}": tensor for name, tensor in halves.items()}
        save_file(named, folder / "x.safetensors", {"lora_adapter_metadata": json.dumps(HEADER)})
        return folder / "x.safetensors"
    stem = DOTTED.replace("unet.", "base_model.model.")
    (folder / "unet").mkdir()
    save_file({f"{stem}.{name}": tensor for name, tensor in halves.items()}, folder / "unet/adapter_model.safetensors")
    config = {name.removeprefix("unet."): value for name, value in HEADER.items()}
    (folder / "unet/adapter_config.json").write_text(json.dumps(config))
    return folder


def weights_of(path: Path) -> Path:
    return path / "unet/adapter_model.safetensors" if path.is_dir() else path


def flip(path: Path, dice: random.Random) -> None:
    """Flip a few bits, most of them in the first 400 bytes."""
    data = bytearray(weights_of(path).read_bytes())
    for _ in range(dice.choice([1, 1, 8])):
        place = dice.randrange(len(data) if dice.random() < 0.3 else min(len(data), 400))
        data[place] ^= 1 << dice.randrange(8)
    weights_of(path).write_bytes(data)


def cut(path: Path, dice: random.Random) -> None:
    data = weights_of(path).read_bytes()
    weights_of(path).write_bytes(data[: dice.randrange(len(data))])


def change_header(path: Path, dice: random.Random) -> None:
    """An entry of the header with another name, shape, dtype or place, or metadata of another type."""
    data = weights_of(path).read_bytes()
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
        field = {"shape": "shape", "dtype": "dtype"}.get(kind, "data_offsets")
        if isinstance(entry, dict) and "shape" in entry:
            entry[field] = dice.choice([[], [0], [2**62, 4], [16, -4], ["x"], "F32", "I64", "F8_E4M3", "BOGUS", None])
        else:
            header["__metadata__"] = dice.choice([{"lora_adapter_metadata": dice.choice(["null", "[", "3"])}, *VALUES])
    text = json.dumps(header).encode()
    weights_of(path).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def change_tensor(path: Path, dice: random.Random) -> None:
    """A tensor of another shape, dtype, name or content, or none, or one more."""
    from safetensors import safe_open

    file = weights_of(path)
    with safe_open(str(file), framework="pt") as opened:
        metadata, tensors = opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    name = dice.choice(list(tensors))
    tensor = tensors.pop(name)
    shapes = [(), (0,), (1,), tuple(tensor.shape[::-1]), (1, *tensor.shape), (tensor.numel(),), (2, 2, 2, 2, 2), (3, 5)]
    made: list[Callable[[], dict[str, Tensor]]] = [
        lambda: {name: torch.ones(dice.choice(shapes))},
        lambda: {name: tensor.to(dice.choice(DTYPES))},
        lambda: {dice.choice(NAMES) or "x": tensor},
        lambda: {name: tensor * dice.choice([float("nan"), float("inf"), 0, 1e30])},
        lambda: {},
        lambda: {name: tensor, f"{STEM}.{dice.choice(list(READ))}": torch.ones(dice.choice(shapes))},
    ]
    tensors |= dice.choice(made)()
    save_file(tensors, file, metadata)


def change_field(path: Path, dice: random.Random) -> None:
    """A field of the configuration with another value, or another name."""
    if path.is_dir():
        config = json.loads((path / "unet/adapter_config.json").read_text())
        config[dice.choice([*config, "modules_to_save", "lora_bias", "use_dora", "x"])] = dice.choice(VALUES)
        whole = dice.choice([json.dumps(config)] * 8 + ["null", "[]", "{", "", "\udcff"])
        (path / "unet/adapter_config.json").write_bytes(whole.encode(errors="surrogateescape"))
        return
    fields: dict[str, Any] = {**HEADER, dice.choice(list(HEADER)): dice.choice(VALUES)}
    args = {"rs_lora": dice.choice(VALUES), "wd_on_output": dice.choice(VALUES)}
    named = tensors_of("lora", 1) if dice.random() < 0.5 else {f"{DOTTED}.lora_A.weight": torch.ones(4, 16)}
    if f"{DOTTED}.lora_A.weight" in named:
        named[f"{DOTTED}.lora_B.weight"] = torch.ones(16, 4)
    save_file(named, path, {"lora_adapter_metadata": json.dumps(fields), "ss_network_args": json.dumps(args)})


MUTATIONS = (flip, cut, change_header, change_tensor, change_tensor, change_field)


def try_one(number: int, folder: Path) -> EtudeError | None:
    """The error that refuses a mutated file, or None where it is read, applied and written. Others are raised."""
    dice = random.Random(number)
    path = true_file(folder, number)
    MUTATIONS[dice.randrange(len(MUTATIONS))](path, dice)
    try:
        _, opened = open_any(path)
        if opened.method != "lora":
            return None
        facts = {"name": "x", "family": "sd1", "prediction": "epsilon"} | opened.facts
        artifact = Artifact("lora", opened.tensors, facts | {"family": "sd1"})
        for layer, factors in by_layer(artifact.tensors).items():
            alpha = facts.get("alphas", {}).get(layer, facts["alpha"])
            if set(factors) != {"diff_b"}:
                assert change(layer, factors, alpha, torch.randn(16, 16)).shape == (16, 16)
            if "diff_b" in factors:
                bias_change(layer, factors, torch.ones(16))
        for form in same_kind(artifact):
            writer = {"kohya_lora": kohya_lora, "diffusers_lora": diffusers_lora, "peft_lora": peft_lora}[form]
            writer.write(artifact, Draft(folder / form))
    except EtudeError as error:
        return error
    return None


@pytest.mark.filterwarnings("ignore:.*8 bits")
def test_a_mutated_file_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    torch.manual_seed(0)
    errors = []
    for number in range(COUNT):
        (tmp_path / str(number)).mkdir()
        errors.append(try_one(number, tmp_path / str(number)))
    refusals = [str(error) for error in errors if error]
    assert all(len(text) < 800 and "\n" not in text for text in refusals)
    assert COUNT // 10 < len(refusals) < 9 * COUNT // 10
