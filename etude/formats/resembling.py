"""What a file of an unknown form looks like, by the names in it: for the error that refuses it."""

from __future__ import annotations

import re
from collections.abc import Collection

SHOWN, LONGEST = 3, 60  # names in an error, and characters of one
_SIGNS = (  # the first that half of the names match counts
    (r"double_blocks|single_blocks|single_transformer_blocks", "FLUX or another transformer"),
    (r"joint_blocks|joint_transformer_blocks", "Stable Diffusion 3"),
    (r"lora_prior_|prior_unet|effnet", "Stable Cascade"),
    (r"^transformer[._]|transformer_blocks\.\d+\.attn\.|^lora_transformer_", "a diffusion transformer"),
    (r"lllite_", "a ControlNet-LLLite"),
    (r"control_model|input_hint_block|controlnet|lora_controlnet", "a ControlNet"),
    (r"ip_adapter|image_proj|to_[kv]_ip", "an IP-Adapter"),
    (r"motion_modules", "an AnimateDiff motion module"),
    (r"^oft_(unet|te)", "an OFT of kohya's own kind"),
    (r"exp_avg|optimizer|lr_scheduler", "the state of a training run"),
    (r"^(lora|lycoris)_|\.lora_|lora_(up|down)|hada_|lokr_|oft_", "a LoRA with names of its own"),
    (r"^(first_stage_model|vae)\.|^(en|de)coder\.(down|up|mid|conv)", "a VAE"),
    (r"diffusion_model|^(down|up|input|output|mid|middle)_blocks?\b", "a UNet alone"),
    (r"text_model\.|cond_stage_model|resblocks|token_embedding", "a text encoder alone"),
    (r"string_to|emb_params|clip_[lg]|<.+>", "an embedding with something else in it"),
)


def described(names: Collection[str]) -> str:
    """How many names there are, the first few, and what they look like."""
    if not names:
        return "nothing"
    first = [name if len(name) <= LONGEST else f"{name[:LONGEST]}…" for name in sorted(names)[:SHOWN]]
    count = f"{len(names)} name{'s' if len(names) > 1 else ''}"
    looks = likeness(names)
    return f"{count} ({', '.join(first)}{' …' if len(names) > SHOWN else ''})" + (f", like {looks}" if looks else "")


def likeness(names: Collection[str]) -> str:
    """What at least half of the names look like; empty if no sign fits."""
    for sign, looks in _SIGNS:
        pattern = re.compile(sign)
        if 2 * sum(bool(pattern.search(name)) for name in names) >= max(len(names), 1):
            return looks
    return ""
