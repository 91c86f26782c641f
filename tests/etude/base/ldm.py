"""A diffusers folder in the layout of a single LDM file, written from methods' tables and not from diffusers' code."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3"}
RESNET |= {"time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
OPEN_CLIP |= {"self_attn.out_proj": "attn.out_proj"}


def to_ldm(folder: Path, family: str) -> dict[str, Tensor]:
    """All tensors of a base under their LDM names."""
    unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    tensors = {f"model.diffusion_model.{_unet(name, family)}": value for name, value in unet.items()}
    for name, value in vae.items():
        flat = "mid_block.attentions" in name and name.endswith("weight") and value.ndim == 2
        tensors[f"first_stage_model.{_vae(name)}"] = value[:, :, None, None] if flat else value
    return tensors | _texts(folder, family) | {"betas": torch.zeros(1000), "model_ema.decay": torch.tensor(0.9999)}


def _unet(name: str, family: str) -> str:
    levels = 3 if family == "sdxl" else 4
    first = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
    first |= {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
    first |= {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
    for old, new in first.items():
        if name.startswith(old + "."):
            return name.replace(old, new, 1)
    if "resnets" in name:
        name = _swap(name, RESNET)
    block, rest = name.split(".", 1)
    if block == "mid_block":
        kind, number, rest = rest.split(".", 2)
        return f"middle_block.{2 * int(number) if kind == 'resnets' else 1}.{rest}"
    level, kind, number, rest = rest.split(".", 3)
    i, j = int(level), int(number)
    if kind == "downsamplers":
        return f"input_blocks.{3 * (i + 1)}.0.op.{rest.removeprefix('conv.')}"
    if block == "down_blocks":
        return f"input_blocks.{3 * i + j + 1}.{int(kind == 'attentions')}.{rest}"
    if kind == "upsamplers":
        attention = i < levels - 1 if family == "sdxl" else i > 0
        return f"output_blocks.{3 * i + 2}.{1 + int(attention)}.{rest}"
    return f"output_blocks.{3 * i + j}.{int(kind == 'attentions')}.{rest}"


def _vae(name: str) -> str:
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    name = re.sub(r"encoder\.down_blocks\.(\d)\.resnets\.(\d)", r"encoder.down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample.", name)
    up = re.match(r"decoder\.up_blocks\.(\d)\.(resnets\.(\d)|upsamplers\.0)\.(.*)", name)
    if up:
        end = f"block.{up[3]}" if up[3] else "upsample"
        return f"decoder.up.{3 - int(up[1])}.{end}.{up[4]}"
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
    if "mid_block.attentions.0." in name:
        name = _swap(name.replace("mid_block.attentions.0.", "mid.attn_1."), ATTENTION)
    return name


def _texts(folder: Path, family: str) -> dict[str, Tensor]:
    first = load_file(folder / "text_encoder" / "model.safetensors")
    if family == "sd2":
        # Such files hold the layers that SD 2.x does not use as well.
        unused = {f"transformer.resblocks.23.{name}": torch.zeros(32) for name in ("ln_1.weight", "ln_2.bias")}
        unused |= {"logit_scale": torch.zeros(()), "text_projection": torch.zeros(32, 32)}
        prefix = "cond_stage_model.model."
        return _open_clip(first, prefix) | {prefix + name: value for name, value in unused.items()}
    prefix = "cond_stage_model.transformer." if family == "sd1" else "conditioner.embedders.0.transformer."
    tensors = {f"{prefix}text_model.{name}": value for name, value in first.items()}
    tensors[f"{prefix}text_model.embeddings.position_ids"] = torch.arange(77).unsqueeze(0)  # older transformers kept it
    if family == "sdxl":
        second = load_file(folder / "text_encoder_2" / "model.safetensors")
        named = {name.removeprefix("text_model."): value for name, value in second.items()}
        tensors |= _open_clip(named, "conditioner.embedders.1.model.")
    return tensors


def _open_clip(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    fixed = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "final_layer_norm.weight": "ln_final.weight",
    }
    fixed |= {"embeddings.position_embedding.weight": "positional_embedding", "final_layer_norm.bias": "ln_final.bias"}
    found = {prefix + new: tensors[old] for old, new in fixed.items()}
    if "text_projection.weight" in tensors:
        found[prefix + "text_projection"] = tensors["text_projection.weight"].T.contiguous()
    for name, value in tensors.items():
        match = re.match(r"encoder\.layers\.(\d+)\.(.*)", name)
        if match is None:
            continue
        stem = f"{prefix}transformer.resblocks.{match[1]}."
        if "q_proj" in name:
            joined = torch.cat([tensors[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"])
            found[f"{stem}attn.in_proj_{name.rsplit('.', 1)[1]}"] = joined
        elif "k_proj" not in name and "v_proj" not in name:
            found[stem + _swap(match[2], OPEN_CLIP)] = value
    return found


def _swap(name: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        name = re.sub(rf"(?<![\w]){re.escape(old)}(?=\.)", new, name)
    return name
