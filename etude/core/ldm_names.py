"""The names of the first Stable Diffusion code (LDM), which single files contain, and those of diffusers.

Both UNets have the same modules in another order: LDM numbers all blocks going down in one list and all going up in
another, diffusers numbers them by level. A table holds prefixes of names, diffusers → LDM; a name is translated by its
longest prefix in the table, in either direction.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

Table = Mapping[str, str]

ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3"}
RESNET |= {"time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
OPEN_CLIP_ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
# Names of the VAE's attention layers in SD 1.x's folders of 2022 → today's names; diffusers reads both.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def unet_table(names: Collection[str]) -> dict[str, str]:
    """The table for a UNet with these names, LDM's or diffusers'; they show levels, resnets a level and attention."""
    if any(name.startswith("input_blocks.") for name in names):
        downs = sorted(_numbers(r"input_blocks\.(\d+)\.0\.op\.", names))
        levels, stride = len(downs) + 1, downs[0] if downs else max(_numbers(r"input_blocks\.(\d+)\.", names)) + 1
        raised = _numbers(r"output_blocks\.(\d+)\.2\.conv\.", names)
        attended = {number // stride for number in raised}
    else:
        levels = max(_numbers(r"down_blocks\.(\d+)\.", names)) + 1
        stride = max(_numbers(r"down_blocks\.0\.resnets\.(\d+)\.", names)) + 2
        attended = _numbers(r"up_blocks\.(\d+)\.attentions\.", names)
    return dict(_unet_pairs(levels, stride, attended))


def _unet_pairs(levels: int, stride: int, attended: Collection[int]) -> Iterable[tuple[str, str]]:
    """``stride`` blocks a level: its resnets, and one that changes the size (down) or one more resnet (up)."""
    yield from ENDS.items()
    for i in range(levels):
        for j in range(stride - 1):
            yield from _block(f"down_blocks.{i}", j, f"input_blocks.{stride * i + j + 1}")
        for j in range(stride):
            yield from _block(f"up_blocks.{i}", j, f"output_blocks.{stride * i + j}")
        yield f"down_blocks.{i}.downsamplers.0.conv", f"input_blocks.{stride * (i + 1)}.0.op"
        place = 2 if i in attended else 1
        yield f"up_blocks.{i}.upsamplers.0.conv", f"output_blocks.{stride * i + stride - 1}.{place}.conv"
    yield from _resnet("mid_block.resnets.0", "middle_block.0")
    yield "mid_block.attentions.0", "middle_block.1"
    yield from _resnet("mid_block.resnets.1", "middle_block.2")


def _block(level: str, number: int, ldm: str) -> Iterable[tuple[str, str]]:
    yield from _resnet(f"{level}.resnets.{number}", f"{ldm}.0")
    yield f"{level}.attentions.{number}", f"{ldm}.1"


def _resnet(name: str, ldm: str) -> Iterable[tuple[str, str]]:
    for own, other in RESNET.items():
        yield f"{name}.{own}", f"{ldm}.{other}"


def table_of(blocks: Sequence[int]) -> dict[str, str]:
    """The table for a UNet with two resnets a level; ``blocks``: transformer layers at each level, going down."""
    attended = [len(blocks) - 1 - level for level, layers in enumerate(blocks) if layers]
    return dict(_unet_pairs(len(blocks), 3, attended))


def vae_table(names: Collection[str]) -> dict[str, str]:
    """The table for a VAE with these names, LDM's or diffusers'. LDM counts the decoder's levels from the end."""
    levels = max(_numbers(r"encoder\.down(?:_blocks)?\.(\d+)\.", names)) + 1
    table = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for side in ("encoder", "decoder"):
        table |= {f"{side}.conv_in": f"{side}.conv_in", f"{side}.conv_out": f"{side}.conv_out"}
        table[f"{side}.conv_norm_out"] = f"{side}.norm_out"
        for number in (0, 1):
            table |= _vae_resnet(f"{side}.mid_block.resnets.{number}", f"{side}.mid.block_{number + 1}")
        for own, other in _ATTENTION.items():
            table[f"{side}.mid_block.attentions.0.{own}"] = f"{side}.mid.attn_1.{other}"
    for i in range(levels):
        for j in range(8):  # more than any VAE has
            table |= _vae_resnet(f"encoder.down_blocks.{i}.resnets.{j}", f"encoder.down.{i}.block.{j}")
            table |= _vae_resnet(f"decoder.up_blocks.{i}.resnets.{j}", f"decoder.up.{levels - 1 - i}.block.{j}")
        table[f"encoder.down_blocks.{i}.downsamplers.0"] = f"encoder.down.{i}.downsample"
        table[f"decoder.up_blocks.{i}.upsamplers.0"] = f"decoder.up.{levels - 1 - i}.upsample"
    return table


def _vae_resnet(name: str, ldm: str) -> dict[str, str]:
    return {f"{name}.conv_shortcut": f"{ldm}.nin_shortcut", name: ldm}


def inverse(table: Table) -> dict[str, str]:
    """LDM → diffusers."""
    return {ldm: name for name, ldm in table.items()}


def translate(name: str, table: Table) -> str | None:
    """``name`` with its longest known prefix of whole words replaced; None when it has none."""
    words = name.split(".")
    for count in range(len(words), 0, -1):
        if (prefix := ".".join(words[:count])) in table:
            return ".".join([table[prefix], *words[count:]])
    return None


def _numbers(pattern: str, names: Iterable[str]) -> set[int]:
    return {int(match[1]) for name in names if (match := re.match(pattern, name))}
