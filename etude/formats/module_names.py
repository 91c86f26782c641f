"""kohya's module names: diffusers' names with ``.`` written as ``_``, and, for SDXL, those of the LDM UNet.

The reverse is ambiguous in general, so names are split into the words that occur in these networks.
"""

from __future__ import annotations

import re

from etude.core.families import learned_parts
from etude.core.ldm_names import ENDS, RESNET, Table, translate

# The names of parts in ComfyUI's and OneTrainer's names with dots; diffusers uses the parts' own names.
_HEADS = {
    "unet": r"lora_unet|(?:model\.)?diffusion_model",
    "text_encoder": r"lora_te1?|(?:text_encoders\.)?clip_[lh](?:\.transformer)?",
    "text_encoder_2": r"lora_te2|(?:text_encoders\.)?clip_g(?:\.transformer)?",
}
_HEADED = {part: re.compile(rf"(?:{heads})\.(.+)", re.DOTALL) for part, heads in _HEADS.items()}
LDM = ("input_blocks.", "middle_block.", "output_blocks.", "time_embed.", "label_emb.", "out.")
# A word that begins with another comes before it.
_UNET = (
    r"down_blocks|mid_block|up_blocks|resnets|attentions|downsamplers|upsamplers|transformer_blocks|attn[12]|to_[qkv]|"
    r"to_out|ff|net|proj_in|proj_out|proj|conv_norm_out|conv_in|conv_out|conv_shortcut|conv[12]?|time_emb_proj|"
    r"time_embedding|add_embedding|linear_[12]|norm[123]?"
)
_TEXT_ENCODER = r"encoder|layers|self_attn|[qkv]_proj|out_proj|mlp|fc[12]|text_projection|(?:final_)?layer_norm[12]?"
_WORD = re.compile(rf"(?:{_UNET}|{_TEXT_ENCODER}|\d+)(?=_|$)")
_LDM_BLOCK = re.compile(r"(input_blocks|output_blocks)_([0-9]{1,3})_([0-9]{1,3})(?:_(.*))?$")
_LDM_MIDDLE = re.compile(r"middle_block_([012])(?:_(.*))?$")
_LDM_RESNET = {ldm.replace(".", "_"): name for name, ldm in RESNET.items()}
_LDM_SINGLE = {ldm.replace(".", "_"): name for name, ldm in ENDS.items()}


def escape(module: str) -> str:
    """``down_blocks.0.attentions.1`` → ``down_blocks_0_attentions_1``."""
    return module.replace(".", "_")


def escape_ldm(module: str, table: Table) -> str:
    """``down_blocks.1.attentions.0`` → ``input_blocks_4_1``, as kohya's scripts call the layers of SDXL's UNet.

    ``table`` is the UNet's, diffusers → LDM (`ldm_names.table_of`). A1111 1.10 translates diffusers' names by SD
    1.x's table, and so leaves out the first upsampler of SDXL.
    """
    return escape(translate(module, table) or module)


def unescape(name: str) -> str | None:
    """The dotted module name, or None when a word is not known. Takes LDM names of the SDXL UNet too."""
    name = name.removeprefix("text_model_")
    if name in _LDM_SINGLE:
        return _LDM_SINGLE[name]
    if match := _LDM_BLOCK.match(name):
        return _from_ldm(match[1], int(match[2]), int(match[3]), match[4] or "")
    if match := _LDM_MIDDLE.match(name):
        return _inside(f"mid_block.{('resnets.0', 'attentions.0', 'resnets.1')[int(match[1])]}", match[2] or "")
    return _words(name)


def from_dotted(name: str) -> tuple[str, str] | None:
    """Part and diffusers' module name of a name with dots; None if it begins with the name of no part."""
    part, _, module = name.partition(".")
    if part not in learned_parts():
        matches = {part: match[1] for part, pattern in _HEADED.items() if (match := pattern.fullmatch(name))}
        part, module = next(iter(matches.items()), ("", ""))
    module = module.removeprefix("text_model.")
    if module.startswith(LDM):
        module = unescape(module.replace(".", "_")) or ""
    return (part, module) if module else None


def _words(name: str) -> str | None:
    """The dotted name of a module that has diffusers' name."""
    words, position = [], 0
    while position < len(name):
        found = _WORD.match(name, position)
        if not found:
            return None
        words.append(found[0])
        position = found.end() + 1
    return ".".join(words) or None


def _from_ldm(side: str, number: int, part: int, rest: str) -> str | None:
    """Blocks of the LDM UNet with two resnets a level: ``down_blocks.i.resnets.j`` is ``input_blocks.{3i+j+1}.0``."""
    if side == "input_blocks":
        level, place = divmod(number - 1, 3)
        if number < 1:
            return None  # the first block is a single layer
        if place == 2:
            return f"down_blocks.{level}.downsamplers.0.conv" if rest == "op" else None
        return _inside(f"down_blocks.{level}.{'attentions' if part else 'resnets'}.{place}", rest)
    level, place = divmod(number, 3)
    if rest == "conv" and part:
        return f"up_blocks.{level}.upsamplers.0.conv"
    return _inside(f"up_blocks.{level}.{'attentions' if part else 'resnets'}.{place}", rest)


def _inside(block: str, rest: str) -> str | None:
    inner = _LDM_RESNET.get(rest) if ".resnets." in block else _words(rest)
    return f"{block}.{inner}" if inner else None
